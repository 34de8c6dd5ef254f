//! A pasted curl line as a request. Options that change what is sent are understood; those that only change how curl behaves
//! are passed over; an option that is not known is an error, as its value could be taken for the URL.

use crate::asked::{Asked, AskedError, Url};

/// Why a curl line is not understood.
#[derive(Debug, thiserror::Error)]
pub enum CurlError {
    /// An option that is not known here.
    #[error(
        "curl's option `{0}` is not understood here; leave it out if it does not change the request"
    )]
    Option(String),
    /// An option without its value.
    #[error("curl's option `{0}` needs a value")]
    Value(String),
    /// No URL.
    #[error("the curl line has no URL")]
    NoUrl,
    /// More than one URL, or another command than curl.
    #[error("a curl line with one URL is understood; here `{0}` and `{1}` would be two")]
    SecondUrl(String, String),
    /// The URL or a header is wrong.
    #[error("in the curl line")]
    Asked(#[from] AskedError),
    /// `--resolve` or `--connect-to` does not hold an address.
    #[error("`{0}` is not HOST:PORT:ADDRESS")]
    Resolve(String),
}

/// Options without a value and without a meaning for the mesh.
const QUIET: [&str; 22] = [
    "-s",
    "-S",
    "-v",
    "-i",
    "-k",
    "-L",
    "-f",
    "-g",
    "-N",
    "-O",
    "-#",
    "--silent",
    "--show-error",
    "--verbose",
    "--include",
    "--insecure",
    "--location",
    "--fail",
    "--globoff",
    "--no-buffer",
    "--compressed",
    "--fail-with-body",
];
/// Options with a value and without a meaning for the mesh.
const QUIET_VALUE: [&str; 16] = [
    "-o",
    "--output",
    "-w",
    "--write-out",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--retry",
    "--retry-delay",
    "--cacert",
    "--capath",
    "--key",
    "--trace",
    "--trace-ascii",
    "-D",
    "--dump-header",
];

/// Parses the words of a curl line, with or without `curl` itself.
///
/// # Errors
/// There is no URL, or an option that is not understood.
pub fn parse(words: &[String]) -> Result<Asked, CurlError> {
    let mut line = Line::default();
    let mut words = words.iter().peekable();
    words.next_if(|word| word.as_str() == "curl");
    while let Some(word) = words.next() {
        let (option, attached) = split(word);
        let mut value = || {
            attached
                .clone()
                .or_else(|| words.next().cloned())
                .ok_or_else(|| CurlError::Value(option.clone()))
        };
        if !line.take(&option, &mut value)? {
            if option.starts_with('-') {
                return Err(CurlError::Option(option));
            }
            if let Some(first) = line.url.replace(option.clone()) {
                return Err(CurlError::SecondUrl(first, option));
            }
        }
    }
    line.finish()
}

/// `-XPOST` and `--request=POST` hold their values; `-sS` is two options without one.
fn split(word: &str) -> (String, Option<String>) {
    if let Some((option, value)) = word.split_once('=').filter(|(o, _)| o.starts_with("--")) {
        return (option.to_owned(), Some(value.to_owned()));
    }
    let short = word.starts_with('-') && !word.starts_with("--") && word.len() > 2;
    match word.get(..2).filter(|_| short) {
        Some(option @ ("-X" | "-H" | "-d" | "-A" | "-b" | "-e" | "-u" | "-o" | "-w" | "-m")) => {
            (option.to_owned(), Some(word[2..].to_owned()))
        }
        _ => (word.to_owned(), None),
    }
}

#[derive(Default)]
struct Line {
    url: Option<String>,
    method: Option<String>,
    headers: Vec<String>,
    data: bool,
    get: bool,
    http2: bool,
    certificate: Option<String>,
    resolve: Option<std::net::IpAddr>,
}

impl Line {
    /// Whether the option was understood.
    fn take(
        &mut self,
        option: &str,
        value: &mut dyn FnMut() -> Result<String, CurlError>,
    ) -> Result<bool, CurlError> {
        match option {
            "-X" | "--request" => self.method = Some(value()?),
            "-H" | "--header" => self.headers.push(value()?),
            "-I" | "--head" => self.method = Some("HEAD".to_owned()),
            "-G" | "--get" => self.get = true,
            "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-urlencode" | "--json"
            | "-F" | "--form" => {
                value()?;
                self.data = true;
                let json = option == "--json";
                let form = matches!(option, "-F" | "--form");
                self.content_type(if json {
                    "application/json"
                } else if form {
                    "multipart/form-data"
                } else {
                    "application/x-www-form-urlencoded"
                });
            }
            "-A" | "--user-agent" => self.headers.push(format!("user-agent: {}", value()?)),
            "-b" | "--cookie" => self.headers.push(format!("cookie: {}", value()?)),
            "-e" | "--referer" => self.headers.push(format!("referer: {}", value()?)),
            "--oauth2-bearer" => self
                .headers
                .push(format!("authorization: Bearer {}", value()?)),
            "-u" | "--user" => {
                value()?;
                self.headers.push("authorization: Basic (given)".to_owned());
            }
            "-E" | "--cert" => self.certificate = Some(value()?),
            "--http2" | "--http2-prior-knowledge" => self.http2 = true,
            "--http1.1" | "--http1.0" => self.http2 = false,
            "--resolve" => self.resolve = Some(address(&value()?)?),
            "--url" => self.url = Some(value()?),
            _ if QUIET.contains(&option) => {}
            _ if QUIET_VALUE.contains(&option) => drop(value()?),
            _ => return Ok(bundled(option)),
        }
        Ok(true)
    }

    fn content_type(&mut self, kind: &str) {
        let has = |header: &String| header.to_ascii_lowercase().starts_with("content-type:");
        if !self.headers.iter().any(has) {
            self.headers.push(format!("content-type: {kind}"));
        }
    }

    fn finish(self) -> Result<Asked, CurlError> {
        let url = Url::parse(&self.url.ok_or(CurlError::NoUrl)?)?;
        let by_data = if self.data && !self.get {
            "POST"
        } else {
            "GET"
        };
        let mut asked = Asked::new(self.method.as_deref().unwrap_or(by_data), url);
        for header in &self.headers {
            // curl takes a header away by an empty value, and sends an empty one by a semicolon.
            let Some((name, value)) = header.split_once(':') else {
                let name = header.trim_end_matches(';');
                asked.set_header(name, "")?;
                continue;
            };
            if !value.trim().is_empty() {
                asked.set_header(name.trim(), value.trim())?;
            }
        }
        if !asked.headers.contains_key(http::header::USER_AGENT) {
            asked.set_header("user-agent", "curl")?;
        }
        asked.http2 = self.http2;
        asked.certificate = self.certificate;
        asked.resolve = self.resolve;
        Ok(asked)
    }
}

/// Several options without values in one word, such as `-sSv`.
fn bundled(option: &str) -> bool {
    let Some(letters) = option
        .strip_prefix('-')
        .filter(|o| !o.starts_with('-') && !o.is_empty())
    else {
        return false;
    };
    letters
        .chars()
        .all(|letter| QUIET.contains(&format!("-{letter}").as_str()))
}

/// The address of `HOST:PORT:ADDRESS`.
fn address(text: &str) -> Result<std::net::IpAddr, CurlError> {
    let wrong = || CurlError::Resolve(text.to_owned());
    let address = text.splitn(3, ':').nth(2).ok_or_else(wrong)?;
    address
        .trim_matches(['[', ']'])
        .parse()
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_curl_would_send_is_asked() {
        let asked = parse(&words(
            "curl -sSv -XPOST -H end-user:jason --json {} --http2 -o /dev/null http://reviews:9080/x",
        ))
        .unwrap();
        assert_eq!((asked.method.as_str(), asked.http2), ("POST", true));
        assert_eq!(asked.headers["end-user"], "jason");
        assert_eq!(asked.headers["content-type"], "application/json");
        assert_eq!(asked.url.path, "/x");
    }

    #[test]
    fn data_makes_a_post_unless_it_goes_into_the_query() {
        assert_eq!(parse(&words("-d a=b http://x/")).unwrap().method, "POST");
        assert_eq!(parse(&words("-G -d a=b http://x/")).unwrap().method, "GET");
        assert_eq!(parse(&words("-I x")).unwrap().method, "HEAD");
    }

    #[test]
    fn what_is_not_understood_is_refused_rather_than_guessed() {
        assert!(matches!(
            parse(&words("--proxy a b")),
            Err(CurlError::Option(_))
        ));
        assert!(matches!(parse(&words("-H")), Err(CurlError::Value(_))));
        assert!(matches!(parse(&words("-s")), Err(CurlError::NoUrl)));
        let other = parse(&words("wget http://x/"));
        assert!(matches!(other, Err(CurlError::SecondUrl(..))));
    }

    #[test]
    fn resolve_fixes_the_address() {
        let asked = parse(&words("--resolve a.com:443:10.0.0.9 https://a.com/")).unwrap();
        assert_eq!(asked.resolve, Some([10, 0, 0, 9].into()));
    }
}
