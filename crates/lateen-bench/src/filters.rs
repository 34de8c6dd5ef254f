//! What configuration costs on the mesh path: routes in front of the one that is taken, rules that are looked at, a token that is
//! verified. Each case is measured beside the bare path in the same run, so that what it adds is the difference.

mod limit;

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::mesh::{DataPlane, Mesh, SERVICE, Sidecar, lateen, manifests, measured, planes};
use crate::options::Options;
use crate::report::{Figures, Report, Row};

/// The issuer of the token.
const ISSUER: &str = "https://issuer.example";

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Bare,
    /// Routes by exact path, and one for everything behind them, which is taken.
    Exact(usize),
    /// Routes by prefix, likewise.
    Prefix(usize),
    /// Rules of a policy that denies, none of which matches.
    Rules(usize),
    Jwt,
}

const CASES: &[Case] = &[
    Case::Bare,
    Case::Exact(10),
    Case::Exact(100),
    Case::Exact(1000),
    Case::Prefix(10),
    Case::Prefix(100),
    Case::Prefix(1000),
    Case::Rules(1),
    Case::Rules(10),
    Case::Rules(100),
    Case::Jwt,
];

impl Case {
    fn name(self) -> String {
        match self {
            Self::Bare => "bare path".to_owned(),
            Self::Exact(count) => format!("{count} routes by exact path"),
            Self::Prefix(count) => format!("{count} routes by prefix"),
            Self::Rules(count) => format!("{count} authorization rules"),
            Self::Jwt => "a token verified".to_owned(),
        }
    }

    fn manifests(self, token: &Token) -> String {
        match self {
            Self::Bare => String::new(),
            Self::Exact(count) => routes("exact", count),
            Self::Prefix(count) => routes("prefix", count),
            Self::Rules(count) => rules(count),
            Self::Jwt => format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: default}}\nspec:\n  \
                 selector: {{matchLabels: {{app: server}}}}\n  jwtRules:\n  - issuer: {ISSUER}\n    jwks: '{}'\n",
                token.keys
            ),
        }
    }
}

/// The names of the cases.
pub(crate) fn cases() -> Vec<String> {
    let limit = std::iter::once(limit::CASE.to_owned());
    limit.chain(CASES.iter().map(|case| case.name())).collect()
}

/// Runs the experiment.
///
/// # Errors
/// A mesh does not start, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("filters");
    lateen()?;
    limit::run(options, &mut report)?;
    let token = Token::new()?;
    let planes = if CASES.iter().any(|case| options.wants_case(&case.name())) {
        planes(options, &mut report)
    } else {
        Vec::new()
    };
    for plane in planes {
        let bare = Running::start(Case::Bare, plane, &token)?;
        for case in CASES {
            if !options.wants_case(&case.name()) {
                continue;
            }
            eprintln!("filters: {}, {} …", case.name(), plane.name());
            let row = measure(*case, plane, &bare, &token, options);
            report.extend([row.with_context(|| format!("{}, {}", case.name(), plane.name()))?]);
        }
    }
    report.finish(&options.out)
}

/// A mesh with something configured.
struct Running {
    mesh: Mesh,
    sidecars: Vec<Sidecar>,
}

impl Running {
    fn start(case: Case, plane: DataPlane, token: &Token) -> Result<Self> {
        let files = [
            ("mesh.yaml", manifests(false)?),
            ("case.yaml", case.manifests(token)),
        ];
        let mesh = Mesh::up(&files, plane)?;
        let sidecars = mesh.sidecars(plane)?;
        ensure!(
            sidecars.len() == 2,
            "two sidecars were expected: {sidecars:?}"
        );
        Ok(Self { mesh, sidecars })
    }

    fn load(&self, token: &Token, options: &Options) -> Result<Figures> {
        let (seconds, target) = (options.time.as_secs_f64(), format!("{SERVICE}:8081"));
        let warm = (seconds / 10.0).to_string();
        let header = format!("authorization: Bearer {}", token.text);
        let arguments = [
            "--protocol",
            "http1",
            "--authority",
            "server:8081",
            "--path",
            "/1024",
            "--connections",
            "16",
            "--target",
            &target,
            "--header",
            &header,
            "--warm",
            &warm,
            "--seconds",
            &seconds.to_string(),
        ];
        measured(&self.mesh, &self.sidecars, &arguments)
    }
}

/// In turns with the bare path, so that whatever the machine does besides falls on both.
fn measure(
    case: Case,
    plane: DataPlane,
    bare: &Running,
    token: &Token,
    options: &Options,
) -> Result<Row> {
    let own = match case {
        Case::Bare => None,
        case => Some(Running::start(case, plane, token)?),
    };
    let mut row = Row {
        case: case.name(),
        subject: plane.name().to_owned(),
        runs: Vec::new(),
    };
    for _ in 0..options.runs {
        let base = bare.load(token, options)?;
        let mut figures = match &own {
            Some(own) => own.load(token, options)?,
            None => base.clone(),
        };
        let cpu = |figures: &Figures| figures.get("cpu_us_per_request").copied().unwrap_or(0.0);
        let added = cpu(&figures) - cpu(&base);
        figures.insert("added_us", added);
        row.runs.push(figures);
    }
    Ok(row)
}

fn routes(by: &str, count: usize) -> String {
    let mut text = String::from(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: server, namespace: default}\nspec:\n  \
         hosts: [server]\n  http:\n",
    );
    for index in 1..count {
        // A string takes whatever is written.
        let _ = write!(
            text,
            "  - match: [{{uri: {{{by}: /somewhere/{index}/}}}}]\n    route: [{{destination: {{host: server}}}}]\n"
        );
    }
    text.push_str("  - route: [{destination: {host: server}}]\n");
    text
}

fn rules(count: usize) -> String {
    let mut text = String::from(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: rules, namespace: default}\nspec:\n  \
         selector: {matchLabels: {app: server}}\n  action: DENY\n  rules:\n",
    );
    for index in 0..count {
        let _ = write!(
            text,
            "  - from: [{{source: {{principals: [cluster.local/ns/default/sa/stranger-{index}]}}}}]\n    \
             to: [{{operation: {{methods: [POST], paths: [/private/{index}/*]}}}}]\n"
        );
    }
    text
}

/// A token, and the key that verifies it.
struct Token {
    text: String,
    keys: String,
}

impl Token {
    fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = key.ok().context("making a key")?;
        // An uncompressed point: 4, then both coordinates.
        let point = key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
        let header = BASE64.encode(r#"{"alg":"ES256","kid":"bench","typ":"JWT"}"#);
        let claims = BASE64.encode(format!(
            r#"{{"iss":"{ISSUER}","sub":"bench","exp":4102444800,"groups":["a","b"]}}"#
        ));
        let signed = format!("{header}.{claims}");
        let signature = key.sign(&random, signed.as_bytes());
        let signature = BASE64.encode(signature.ok().context("signing")?.as_ref());
        Ok(Self {
            text: format!("{signed}.{signature}"),
            keys: format!(
                r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","kid":"bench","x":"{x}","y":"{y}"}}]}}"#
            ),
        })
    }
}
