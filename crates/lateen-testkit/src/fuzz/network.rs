//! The parsers that face the network: no bytes panic, take long, or pass for something that nobody signed.
//!
//! A parser's corpus is `corpus/NAME`: files of hexadecimal digits, so that they can be read and reviewed; what follows a `#` is a
//! remark. In a build by `cargo xtask fuzz` inputs that reach something new become seeds of others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lateen_agent::dns::{self, Protocol, Scope, Table};
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::istio::nds::name_table::NameInfo;

use super::guide::Guide;
use super::jwt::Judge;
use super::mutate::{self, Random};
use super::{Options, Outcome, SLOW, keep, messages};

/// Mutations between looks at the clock.
const BATCH: u64 = 100;
/// How often an input that takes long is tried.
const TRIES: usize = 5;

type Check = Box<dyn Fn(&[u8]) -> Result<(), &'static str>>;
type Mutate = Box<dyn Fn(&[Vec<u8>], &mut Random) -> Vec<u8>>;

/// A parser, and what its inputs are made of.
pub struct Parser {
    /// Its name, and its corpus' directory.
    pub name: &'static str,
    seeds: Vec<Vec<u8>>,
    check: Check,
    mutate: Mutate,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("name", &self.name)
            .field("seeds", &self.seeds.len())
            .finish_non_exhaustive()
    }
}

/// All of them.
///
/// # Errors
/// A corpus is missing, empty or unreadable.
pub fn parsers() -> Result<Vec<Parser>> {
    let mut out = Vec::new();
    for (name, target) in lateen_proxy::fuzzing::TARGETS {
        let check = move |bytes: &[u8]| {
            target(bytes);
            Ok(())
        };
        let words = words(name);
        out.push(Parser {
            name,
            seeds: corpus(name)?,
            check: Box::new(check),
            mutate: Box::new(move |seeds, random| mutate::bytes(seeds, words, random)),
        });
    }
    out.push(Parser {
        name: "dns",
        seeds: corpus("dns")?,
        check: Box::new(query(known())),
        mutate: Box::new(|seeds, random| mutate::bytes(seeds, &[], random)),
    });
    for (name, more, check) in MESSAGES {
        let mut seeds = corpus(name)?;
        seeds.extend(more());
        let words = words(name);
        out.push(Parser {
            name,
            seeds,
            check: Box::new(check),
            mutate: Box::new(move |seeds, random| mutate::bytes(seeds, words, random)),
        });
    }
    let judge = Judge::new();
    let mut seeds = corpus("jwt")?;
    seeds.extend(judge.seeds());
    out.push(Parser {
        name: "jwt",
        seeds,
        check: Box::new(move |bytes| judge.check(bytes)),
        mutate: Box::new(super::jwt::mutate),
    });
    Ok(out)
}

/// What friends that may be none send: the name, inputs beside the corpus' own, the check.
type Messages = (
    &'static str,
    fn() -> Vec<Vec<u8>>,
    fn(&[u8]) -> Result<(), &'static str>,
);

const MESSAGES: [Messages; 7] = [
    ("xds_resource", messages::resource_seeds, messages::resource),
    (
        "xds_response",
        messages::response_seeds,
        messages::responses,
    ),
    ("xds_request", messages::request_seeds, messages::requests),
    ("dns_answer", Vec::new, messages::dns_answer),
    ("pem", messages::pem_seeds, messages::pem),
    (
        "certificate_request",
        messages::pem_seeds,
        messages::certificate_request,
    ),
    ("key_set", Vec::new, messages::key_set),
];

/// Words that parsers look for.
const WORDS: &[(&[&str], &[&str])] = &[
    (
        &["http1_request", "http1_response", "chunked"],
        &[
            "\r\n",
            "\n",
            "\r",
            "\r\n\r\n",
            " ",
            "\t",
            ":",
            ": ",
            ",",
            ";",
            "0\r\n\r\n",
            "HTTP/1.1",
            "HTTP/1.0",
            "GET ",
            "POST / ",
            "CONNECT a:1 ",
            "content-length: 5",
            "content-length: 5, 5",
            "transfer-encoding: chunked",
            "transfer-encoding: identity, chunked",
            "connection: close",
            "connection: upgrade",
            "upgrade: websocket",
            "host: a",
            "expect: 100-continue",
            "5\r\nhello",
            "ffffffffffffffff",
            ";a=\"b\"",
            "HTTP/1.1 101 ",
            "HTTP/1.1 100 ",
            "HTTP/1.1 204 ",
            "GET ws://a/ HTTP/1.1\r\n",
            "upgrade: h2c, websocket",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ],
    ),
    (
        &["client_cert_header"],
        &[
            "\n",
            "\nu",
            "\nd",
            ",",
            ";",
            "=",
            "\"",
            "\\",
            "URI=",
            "By=",
            "Hash=",
            "Subject=\"",
            "spiffe://",
            "%2C",
            "\u{e9}",
        ],
    ),
    (
        &["forwarded_for"],
        &[
            ",", ", ", "10.0.0.1", "::1", "[", "]", "\u{e9}", ":80", "%eth0",
        ],
    ),
    (
        &["trace_context"],
        &[
            "b3:",
            "traceparent:",
            "tracestate:",
            "x-b3-traceid:",
            "x-b3-spanid:",
            "x-b3-parentspanid:",
            "x-b3-sampled:",
            "\n",
            "-",
            "00",
            "ff",
            "463ac35c9f6413ad48485a3953bb6124",
            "a2fb4a1d1a96d312",
        ],
    ),
    (&["grpc_web"], &["=", "==", "AAAA", "+", "/", "-", "\n"]),
    (
        &["authorizer_http"],
        &[
            "\n",
            "\n\n",
            ":",
            "host:",
            "content-length:",
            "set-cookie:",
            "x-envoy-auth-headers-to-remove:",
            "location:",
            "transfer-encoding:",
        ],
    ),
    (
        &["pem", "certificate_request"],
        &[
            "-----BEGIN CERTIFICATE-----\n",
            "-----END CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE REQUEST-----\n",
            "-----END CERTIFICATE REQUEST-----\n",
            "-----",
            "\n",
            "=",
        ],
    ),
    (
        &["key_set"],
        &[
            "{",
            "}",
            "[",
            "]",
            ",",
            "\"keys\":",
            "\"kty\":",
            "\"RSA\"",
            "\"EC\"",
            "\"oct\"",
            "\"OKP\"",
            "\"d\":",
            "\"n\":",
            "\"e\":",
            "\"alg\":",
            "\"kid\":",
            "1e999",
            "\\u0000",
        ],
    ),
    (
        &["peer_exchange"],
        &[
            "=#\u{4}g",
            "type.googleapis.com/google.protobuf.Struct",
            "x-envoy-peer-metadata",
            "\0\0\0\0",
            "\n",
            "\u{12}",
            "\u{1a}",
        ],
    ),
    (
        &["proxy_protocol"],
        &[
            "PROXY ",
            "TCP4 ",
            "TCP6 ",
            "UNKNOWN",
            "\r\n",
            "255.255.255.255",
            "65536",
            "::ffff:1.2.3.4",
            // Beginnings of TLVs: type and length.
            "\u{2}\0\u{4}",
            "\u{20}\0\u{8}",
            "\u{4}\0\0",
            "\0\u{c}",
        ],
    ),
    (
        &["path"],
        &[
            "/", "..", ".", ";", "%2f", "%5c", "%2e", "%00", "\\", "//", "?", "#", "%25", "..;",
            "\u{e9}",
        ],
    ),
    (
        &["authority"],
        &[
            ":",
            "[",
            "]",
            "@",
            ".",
            "%",
            "::1",
            "65536",
            "fe80::1%eth0",
            "\u{e9}",
            " ",
        ],
    ),
    (
        &["spiffe"],
        &[
            "spiffe://",
            "/ns/",
            "/sa/",
            "/",
            "%",
            "?",
            "#",
            "@",
            ":1",
            "\0",
        ],
    ),
    (
        &["access_log_format"],
        &[
            "%",
            "%REQ(",
            ")%",
            ":",
            "?",
            "%START_TIME(",
            "%%",
            "\\n",
            ":9999999",
            "%DYNAMIC_METADATA(",
        ],
    ),
    (
        &["cel"],
        &[
            "(",
            ")",
            "[",
            "]",
            "!",
            "&&",
            "||",
            "?",
            ":",
            ".",
            "'",
            "has(",
            "in ",
            "request.headers[",
            "1e999",
            "\\x",
            "-",
        ],
    ),
];

/// The words of a parser.
fn words(name: &str) -> &'static [&'static str] {
    let own = WORDS.iter().find(|(names, _)| names.contains(&name));
    own.map_or(&[], |(_, words)| words)
}

/// A question to the agent's name server.
fn query(table: Table) -> impl Fn(&[u8]) -> Result<(), &'static str> {
    move |bytes| {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let _ = dns::answer(bytes, Some(&table), protocol, &mut |_| 0);
        }
        Ok(())
    }
}

/// The table of a pod that knows one service.
fn known() -> Table {
    let info = NameInfo {
        ips: vec!["10.96.0.1".to_owned(), "fd00::1".to_owned()],
        shortname: "reviews".to_owned(),
        namespace: "default".to_owned(),
        ..NameInfo::default()
    };
    let names = NameTable {
        table: [("reviews.default.svc.cluster.local".to_owned(), info)].into(),
    };
    let search = vec!["default.svc.cluster.local".to_owned()];
    Table::new(
        &names,
        Scope::of_pod("default", "default.svc.cluster.local", search),
    )
}

/// Feeds inputs to one parser, or to each.
pub(super) fn run(options: &Options, name: &str) -> Result<Vec<Outcome>> {
    let all = parsers()?;
    let names: Vec<&str> = all.iter().map(|parser| parser.name).collect();
    if name != "network" && !names.contains(&name) {
        bail!(
            "no target `{name}`; there are yaml, compile, network, {}",
            names.join(", ")
        );
    }
    let chosen: Vec<Parser> = all
        .into_iter()
        .filter(|parser| name == "network" || parser.name == name)
        .collect();
    let share = Duration::from_secs(options.seconds) / u32::try_from(chosen.len()).unwrap_or(1);
    chosen
        .iter()
        .map(|parser| parser.fuzz(options, share))
        .collect()
}

impl Parser {
    fn fuzz(&self, options: &Options, time: Duration) -> Result<Outcome> {
        let mut random = Random::new(options.seed);
        let mut outcome = Outcome {
            target: self.name.to_owned(),
            ..Outcome::default()
        };
        let directory = options.reached.as_ref().map(|dir| dir.join(self.name));
        let mut guide = Guide::new(self.seeds.clone(), directory);
        for seed in &self.seeds {
            self.feed(seed, &mut guide, &mut outcome, options)?;
        }
        for input in guide.kept()? {
            if self.feed(&input, &mut guide, &mut outcome, options)? {
                guide.learn(input)?;
            } else {
                guide.drop_kept(&input)?;
            }
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            for _ in 0..BATCH {
                let input = (self.mutate)(&guide.seeds, &mut random);
                if self.feed(&input, &mut guide, &mut outcome, options)? {
                    guide.learn(input)?;
                }
            }
        }
        outcome.reached = guide.reached();
        Ok(outcome)
    }

    /// Feeds one input and keeps it if it breaks something; otherwise says whether it reached something new.
    fn feed(
        &self,
        input: &[u8],
        guide: &mut Guide,
        outcome: &mut Outcome,
        options: &Options,
    ) -> Result<bool> {
        let broken = self.breaks(input, &mut outcome.slowest);
        let news = guide.is_news();
        outcome.inputs += 1;
        let Some(why) = broken else {
            return Ok(news);
        };
        outcome.broken += 1;
        let name = format!("{}-{}-{}", self.name, options.seed, outcome.inputs);
        println!("{name}: {why}");
        keep(&options.found, &name, &hex(input))?;
        Ok(false)
    }

    /// Feeds one input; says what it broke. What takes long is fed again: on a busy machine it may have waited for its turn.
    fn breaks(&self, input: &[u8], slowest: &mut Duration) -> Option<String> {
        let mut least = Duration::MAX;
        for _ in 0..TRIES {
            let before = Instant::now();
            let checked = catch_unwind(AssertUnwindSafe(|| (self.check)(input)));
            least = least.min(before.elapsed());
            match checked {
                Err(_) => return Some("a panic".to_owned()),
                Ok(Err(why)) => return Some(why.to_owned()),
                Ok(Ok(())) if least <= SLOW => break,
                Ok(Ok(())) => {}
            }
        }
        *slowest = (*slowest).max(least);
        (least > SLOW).then(|| format!("took {least:?}"))
    }

    /// Feeds the corpus, every beginning of its inputs, and mutations, so many or for so long. For tests: the first thing that breaks.
    ///
    /// # Errors
    /// What broke, and the input in hexadecimal digits.
    pub fn exercise(&self, mutations: u64, time: Duration) -> Result<(), String> {
        let mut slowest = Duration::ZERO;
        let mut feed = |input: &[u8]| match self.breaks(input, &mut slowest) {
            Some(why) => Err(format!("{}: {why}:\n{}", self.name, hex(input))),
            None => Ok(()),
        };
        for seed in &self.seeds {
            feed(seed)?;
            for end in 0..seed.len().min(512) {
                feed(&seed[..end])?;
            }
        }
        let mut random = Random::new(1);
        let end = Instant::now() + time;
        for _ in 0..mutations {
            if Instant::now() > end {
                break;
            }
            feed(&(self.mutate)(&self.seeds, &mut random))?;
        }
        Ok(())
    }
}

/// The files of a parser, seen from the repository's root, where one fuzzes, or from this crate, where its tests run.
fn corpus(name: &str) -> Result<Vec<Vec<u8>>> {
    let from_root = Path::new("crates/lateen-testkit/corpus").join(name);
    let directory = Some(from_root).filter(|directory| directory.is_dir());
    let directory = directory.unwrap_or_else(|| Path::new("corpus").join(name));
    inputs(&directory).with_context(|| format!("the corpus of {name}"))
}

/// Inputs of a directory's files.
pub(super) fn inputs(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let files = super::read_corpus(directory)?;
    files
        .iter()
        .map(|file| unhex(&String::from_utf8_lossy(file)))
        .collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let digits: Option<Vec<u8>> = lines
        .flat_map(str::chars)
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| u8::try_from(c.to_digit(16)?).ok())
        .collect();
    let Some(digits) = digits.filter(|digits| digits.len() % 2 == 0) else {
        bail!("an input is no pairs of hexadecimal digits: {text:?}");
    };
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_digits_and_remarks_and_nothing_is_passed_over() {
        assert_eq!(unhex("# two\n0aFf # more\n 00\n").unwrap(), [0x0a, 0xff, 0]);
        for wrong in ["0", "GET / HTTP/1.1", "0a 0x"] {
            unhex(wrong).unwrap_err();
        }
    }
}
