//! The older protocol: every request repeats the subscription, and responses of wildcard types repeat the type.

use super::*;

struct Sotw {
    session: ServerSession,
    now: Instant,
}

impl Sotw {
    fn new() -> Self {
        let session = ServerSession::new(Variant::StateOfTheWorld, SessionConfig::default());
        Self {
            session,
            now: Instant::now(),
        }
    }

    fn set(&mut self, types: &[(TypeUrl, &str)]) {
        self.session.set_resources(set(types));
    }

    fn request(
        &mut self,
        ty: TypeUrl,
        names: &str,
        nonce: &str,
        error: Option<Status>,
    ) -> Received {
        let request = DiscoveryRequest {
            type_url: ty.as_str().to_owned(),
            resource_names: words(names),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..DiscoveryRequest::default()
        };
        self.session.on_request(&request, self.now).unwrap()
    }

    fn subscribe(&mut self, ty: TypeUrl, names: &str) {
        self.request(ty, names, "", None);
    }

    fn next(&mut self) -> Option<DiscoveryResponse> {
        match self.session.poll(self.now)? {
            Response::StateOfTheWorld(response) => Some(response),
            Response::Delta(_) => panic!("the wrong variant"),
        }
    }

    fn ack(&mut self, response: &DiscoveryResponse, names: &str) -> Answer {
        let ty = TypeUrl::parse(&response.type_url).unwrap();
        self.request(ty, names, &response.nonce, None).answer
    }

    /// The next response, as `"CDS a b=2"`, ACKed with the names given.
    fn acked(&mut self, names: &str) -> String {
        let Some(response) = self.next() else {
            return "-".to_owned();
        };
        self.ack(&response, names);
        shape(&response)
    }
}

/// Clusters by name, everything else by the bytes of [`resource`].
fn shape(response: &DiscoveryResponse) -> String {
    let mut text = short(&response.type_url).to_owned();
    for any in &response.resources {
        let body = match lateen_envoy::unpack::<Cluster>(any) {
            Ok(cluster) => format!("{}={}", cluster.name, cluster.alt_stat_name),
            Err(_) => String::from_utf8(any.value.clone()).unwrap(),
        };
        text += &format!(" {}", body.trim_end_matches("=1"));
    }
    text
}

#[test]
fn a_change_repeats_the_whole_of_a_wildcard_type() {
    let mut stream = Sotw::new();
    stream.set(&[(Lds, "a b")]);
    stream.subscribe(Lds, "");
    assert_eq!(stream.acked(""), "LDS a b");
    stream.set(&[(Lds, "a b=2")]);
    assert_eq!(stream.acked(""), "LDS a b=2");
    stream.set(&[(Lds, "b=2")]);
    assert_eq!(stream.acked(""), "LDS b=2");
    stream.set(&[(Lds, "b=2")]);
    assert_eq!(stream.acked(""), "-");
}

#[test]
fn an_empty_wildcard_type_is_said_to_be_empty() {
    let mut stream = Sotw::new();
    stream.set(&[]);
    stream.subscribe(Cds, "");
    assert_eq!(stream.acked(""), "CDS");
    assert_eq!(stream.acked(""), "-");
}

#[test]
fn types_by_name_get_only_what_they_name_and_what_changed() {
    let mut stream = Sotw::new();
    stream.set(&[(Eds, "a b c")]);
    stream.subscribe(Eds, "a b");
    assert_eq!(stream.acked("a b"), "EDS a b");
    stream.set(&[(Eds, "a b=2 c=2")]);
    assert_eq!(stream.acked("a b"), "EDS b=2");
}

#[test]
fn names_added_with_an_acknowledgement_are_sent() {
    let mut stream = Sotw::new();
    stream.set(&[(Rds, "80 90")]);
    stream.subscribe(Rds, "80");
    let first = stream.next().unwrap();
    assert_eq!(stream.ack(&first, "80 90"), Answer::Ack(Duration::ZERO));
    assert_eq!(stream.acked("80 90"), "RDS 90");
}

#[test]
fn names_added_after_the_acknowledgement_are_sent() {
    let mut stream = Sotw::new();
    stream.set(&[(Rds, "80 90")]);
    stream.subscribe(Rds, "80");
    let first = stream.next().unwrap();
    stream.ack(&first, "80");
    stream.ack(&first, "80 90");
    assert_eq!(stream.acked("80 90"), "RDS 90");
}

#[test]
fn the_same_request_again_is_answered_again() {
    // Envoy drops the endpoints of a cluster it replaces and asks for the same names under the same nonce.
    let mut stream = Sotw::new();
    stream.set(&[(Eds, "a")]);
    stream.subscribe(Eds, "a");
    let first = stream.next().unwrap();
    stream.ack(&first, "a");
    assert_eq!(stream.next(), None);
    stream.ack(&first, "a");
    let second = stream.next().unwrap();
    assert_eq!(shape(&second), "EDS a");
    stream.ack(&second, "a");
    assert_eq!(stream.next(), None, "and then no more");
}

#[test]
fn unknown_names_are_passed_over_until_they_exist() {
    let mut stream = Sotw::new();
    stream.set(&[(Rds, "80")]);
    stream.subscribe(Rds, "80 none");
    assert_eq!(stream.acked("80 none"), "RDS 80");
    stream.set(&[(Rds, "80 none")]);
    assert_eq!(stream.acked("80 none"), "RDS none");
}

#[test]
fn no_names_means_none_for_types_asked_for_by_name() {
    let mut stream = Sotw::new();
    stream.set(&[(Rds, "80")]);
    stream.subscribe(Rds, "");
    assert_eq!(stream.next(), None);
    stream.subscribe(Rds, "80");
    let response = stream.next().unwrap();
    stream.ack(&response, "");
    stream.set(&[(Rds, "80=2")]);
    assert_eq!(stream.next(), None);
}

#[test]
fn no_names_after_names_takes_the_subscription_back() {
    let mut stream = Sotw::new();
    stream.set(&[(Lds, "a b")]);
    stream.subscribe(Lds, "a");
    let response = stream.next().unwrap();
    assert_eq!(shape(&response), "LDS a");
    stream.ack(&response, "");
    stream.set(&[(Lds, "a=2 b")]);
    assert_eq!(stream.next(), None);
}

#[test]
fn stale_requests_are_ignored_altogether() {
    let mut stream = Sotw::new();
    stream.set(&[(Eds, "a b")]);
    stream.subscribe(Eds, "a");
    let first = stream.next().unwrap();
    stream.ack(&first, "a");
    stream.set(&[(Eds, "a=2 b")]);
    let second = stream.next().unwrap();
    // Sent before the client saw the second response; it will repeat the names when it answers that.
    let crossing = stream.request(Eds, "a b", &first.nonce, None);
    assert_eq!(
        (crossing.answer, crossing.resubscribed),
        (Answer::Stale, false)
    );
    assert_eq!(stream.next(), None);
    stream.ack(&second, "a b");
    assert_eq!(stream.acked("a b"), "EDS b");
}

#[test]
fn a_rejected_state_is_not_repeated() {
    let mut stream = Sotw::new();
    stream.set(&[(Lds, "a")]);
    stream.subscribe(Lds, "");
    let first = stream.next().unwrap();
    let received = stream.request(Lds, "", &first.nonce, rejected("bad"));
    assert_eq!(received.answer, Answer::Nack("bad".to_owned()));
    assert_eq!(stream.next(), None);
    assert_eq!(stream.session.status().types[&Lds].sync(), SyncState::Error);
    stream.set(&[(Lds, "a=2")]);
    assert_eq!(stream.acked(""), "LDS a=2");
    assert_eq!(
        stream.session.status().types[&Lds].sync(),
        SyncState::Synced
    );
}

#[test]
fn a_reconnecting_client_is_answered_whatever_nonce_it_brings() {
    let mut stream = Sotw::new();
    stream.set(&[(Cds, "a"), (Eds, "a")]);
    stream.request(Eds, "a", "77", None);
    stream.request(Cds, "", "78", None);
    assert_eq!(stream.acked(""), "CDS a");
    assert_eq!(stream.acked("a"), "EDS a");
}

#[test]
fn the_endpoints_of_a_changed_cluster_are_sent_again_without_being_asked_for() {
    let mut stream = Sotw::new();
    stream.set(&[(Cds, "a b"), (Eds, "a b")]);
    stream.subscribe(Cds, "");
    stream.subscribe(Eds, "a b");
    stream.acked("");
    stream.acked("a b");
    stream.set(&[(Cds, "a=2 b"), (Eds, "a b")]);
    assert_eq!(stream.acked(""), "CDS a=2 b");
    assert_eq!(stream.acked("a b"), "EDS a");
    assert_eq!(stream.acked(""), "-");
}

#[test]
fn a_removed_cluster_is_repeated_until_its_users_are_acknowledged() {
    let mut stream = Sotw::new();
    stream.set(&[(Cds, "a b"), (Lds, "l")]);
    stream.subscribe(Cds, "");
    stream.subscribe(Lds, "");
    stream.acked("");
    stream.acked("");
    stream.set(&[(Cds, "b=2"), (Lds, "l=2")]);
    assert_eq!(stream.acked(""), "CDS b=2 a");
    assert_eq!(stream.acked(""), "LDS l=2");
    assert_eq!(stream.acked(""), "CDS b=2");
    assert_eq!(stream.acked(""), "-");
    assert_eq!(stream.session.deadline(), None);
}

#[test]
fn names_that_do_not_exist_do_not_withhold_removals() {
    let mut stream = Sotw::new();
    stream.set(&[(Cds, "a"), (Rds, "80")]);
    stream.subscribe(Cds, "");
    stream.subscribe(Rds, "80 none");
    stream.acked("");
    stream.acked("80 none");
    stream.set(&[(Rds, "80")]);
    assert_eq!(stream.acked(""), "CDS");
}
