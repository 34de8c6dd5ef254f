//! Certificates from an authority other than istiod (`CA_ADDR`), which speaks `istio.v1.auth.IstioCertificateService`.

use std::time::Duration;

use lateen_agent::{AgentConfig, DataPlaneKind, istiod};

use super::support::{Istiod, eventually};

/// Starts what an agent has towards its authority, and gives the roots of the identity it gets; `None` if it gets none.
async fn roots_of(config: &AgentConfig, patience: Duration) -> Option<String> {
    let (known, tasks) = istiod::prepare(config).unwrap();
    let running = tokio::spawn(tasks.run(std::future::pending()));
    let mut identity = known.identity.watch();
    let found = tokio::time::timeout(patience, identity.wait_for(Option::is_some)).await;
    let roots = found
        .ok()
        .and_then(|found| Some(found.ok()?.as_ref()?.bundle().to_pem()));
    running.abort();
    roots
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_from_the_authority_that_is_named() {
    let mesh = Istiod::start();
    let authority = mesh.external();
    let own = authority.ca.bundle().borrow().to_pem();
    let file = authority.dir().join("authority.pem");
    std::fs::write(&file, &own).unwrap();
    let address = authority.address().to_string();
    let named = |extra: &[(&str, &str)]| {
        let mut environment = vec![("CA_ADDR", address.clone())];
        environment.extend(
            extra
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        mesh.agent(DataPlaneKind::Lateen, &environment)
    };
    let file = file.to_str().unwrap();
    let config = named(&[("CA_ROOT_CA", file), ("CA_HEADER_x-tenant", "shop")]);
    assert_eq!(config.ca_name, "127.0.0.1", "it goes by its own name");
    let roots = roots_of(&config, Duration::from_secs(20)).await.unwrap();
    assert!(roots.contains(own.trim()), "{roots}");
    // istiod's roots do not vouch for another authority.
    let config = named(&[]);
    let roots = roots_of(&config, Duration::from_secs(2)).await;
    assert!(roots.is_none());
    eventually("istiod is still there", || async {
        tokio::net::TcpStream::connect(mesh.address()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_header_that_is_none_is_said() {
    let mesh = Istiod::start();
    let config = mesh.agent(
        DataPlaneKind::Lateen,
        &[("CA_HEADER_x tenant", "shop".to_owned())],
    );
    let error = istiod::prepare(&config).unwrap_err();
    assert!(error.to_string().contains("CA_HEADER_x tenant"), "{error}");
}
