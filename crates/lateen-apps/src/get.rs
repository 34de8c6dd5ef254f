//! `http-get`: the part of `curl` that samples and scripts use, for machines and images without it.
//!
//! Short options may be joined (`-sS`), long ones are those of curl. Exit codes are curl's: 2 usage, 3 URL, 6 name, 7
//! connection, 22 status with `-f`, 28 timeout, 52 no answer. HTTP/1.1 without TLS only.

use std::io::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::{Method, Response};
use tokio_util::sync::CancellationToken;

use crate::client::{self, Call, ClientError, Target};

/// How long a request may take without `-m`.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Redirects followed with `-L`, as many as curl follows.
const MOST_REDIRECTS: usize = 50;

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> u8 {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("http-get: {problem}");
            return 2;
        }
    };
    let mut code = 0;
    for url in &options.urls {
        let outcome = tokio::select! {
            () = stop.cancelled() => return 130,
            outcome = options.fetch(url) => outcome,
        };
        if let Err(failure) = outcome {
            if !options.silent || options.show_error {
                eprintln!("http-get: ({}) {}", failure.code, failure.text);
            }
            code = failure.code;
        }
    }
    code
}

struct Failure {
    code: u8,
    text: String,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let code = match &error {
            ClientError::Url(_) => 3,
            ClientError::Resolve { .. } => 6,
            ClientError::Connect { .. } => 7,
            ClientError::Timeout(_) => 28,
            ClientError::Exchange { .. } | ClientError::Pooled { .. } | ClientError::Body(_) => 52,
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Failure {
            code,
            text: format!("{error}{}", cause.unwrap_or_default()),
        }
    }
}

#[derive(Debug, Default)]
struct Options {
    urls: Vec<String>,
    method: Option<Method>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
    output: Option<String>,
    write_out: Option<String>,
    silent: bool,
    show_error: bool,
    verbose: bool,
    include: bool,
    head: bool,
    fail: bool,
    follow: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut arguments = arguments.iter().cloned();
        while let Some(argument) = arguments.next() {
            if let Some(name) = argument.strip_prefix("--") {
                let (name, inline) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (name, None),
                };
                let short = long(name).ok_or_else(|| format!("unknown option `--{name}`"))?;
                options.take(short, inline, &mut arguments)?;
            } else if let Some(joined) = argument.strip_prefix('-').filter(|rest| !rest.is_empty())
            {
                let mut rest = joined.chars();
                while let Some(short) = rest.next() {
                    let attached = rest.as_str();
                    if takes_value(short) {
                        let value = (!attached.is_empty()).then(|| attached.to_owned());
                        options.take(short, value, &mut arguments)?;
                        break;
                    }
                    options.take(short, None, &mut arguments)?;
                }
            } else {
                options.urls.push(argument);
            }
        }
        if options.urls.is_empty() {
            return Err("no URL".to_owned());
        }
        Ok(options)
    }

    fn take(
        &mut self,
        option: char,
        inline: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), String> {
        if !takes_value(option) {
            return self.flag(option);
        }
        let value = inline.or_else(|| rest.next());
        let value = value.ok_or_else(|| format!("option `-{option}` needs a value"))?;
        match option {
            'X' => {
                let method = Method::from_bytes(value.as_bytes());
                self.method = Some(method.map_err(|_| format!("`{value}` is not a method"))?);
            }
            'H' => self.header(&value)?,
            'A' => self.header(&format!("user-agent: {value}"))?,
            'b' => self.header(&format!("cookie: {value}"))?,
            'u' => self.header(&format!("authorization: Basic {}", STANDARD.encode(&value)))?,
            'd' => {
                let body = self.body.get_or_insert_default();
                if !body.is_empty() {
                    body.push(b'&');
                }
                body.extend_from_slice(value.as_bytes());
            }
            'm' => {
                let seconds = value
                    .parse()
                    .ok()
                    .and_then(|s| Duration::try_from_secs_f64(s).ok());
                self.timeout = Some(seconds.ok_or_else(|| format!("`{value}` is not a time"))?);
            }
            'o' => self.output = Some(value),
            'w' => self.write_out = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn flag(&mut self, option: char) -> Result<(), String> {
        match option {
            's' => self.silent = true,
            'S' => self.show_error = true,
            'v' => self.verbose = true,
            'i' => self.include = true,
            'I' => self.head = true,
            'f' => self.fail = true,
            'L' => self.follow = true,
            // Of no consequence here: certificates, progress, globbing, address families, protocol versions.
            'k' | '#' | 'g' | '4' | '6' | '0' | '1' | 'N' => {}
            other => return Err(format!("unknown option `-{other}`")),
        }
        Ok(())
    }

    fn header(&mut self, line: &str) -> Result<(), String> {
        let wrong = || format!("`{line}` is not a header");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        self.headers.push((name, value));
        Ok(())
    }

    fn call(&self, url: &str) -> Result<Call, ClientError> {
        let mut call = Call::get(Target::parse(url)?);
        if let Some(body) = &self.body {
            call.method = Method::POST;
            call.body = Bytes::from(body.clone());
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            call.headers.insert(CONTENT_TYPE, form);
        }
        if self.head {
            call.method = Method::HEAD;
        }
        if let Some(method) = &self.method {
            call.method = method.clone();
        }
        call.headers
            .insert(USER_AGENT, HeaderValue::from_static("curl/8 (lateen)"));
        call.headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        for (name, value) in &self.headers {
            // The first of a repeated header replaces what is set here, the others are added to it.
            if [USER_AGENT, ACCEPT, CONTENT_TYPE, HOST, AUTHORIZATION].contains(name) {
                call.headers.insert(name, value.clone());
            } else {
                call.headers.append(name, value.clone());
            }
        }
        Ok(call)
    }

    async fn fetch(&self, url: &str) -> Result<(), Failure> {
        let began = Instant::now();
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        let mut url = url.to_owned();
        let mut redirects = 0;
        let response = loop {
            let call = self.call(&url)?;
            if self.verbose {
                eprintln!("> {} {}", call.method, call.target.path);
            }
            let left = timeout.saturating_sub(began.elapsed());
            let response = match client::send(&call, left).await {
                Err(ClientError::Timeout(_)) => Err(ClientError::Timeout(timeout)),
                other => other,
            };
            let response = match response {
                Ok(response) => response,
                Err(error) => {
                    // Scripts read the code from `-w` even of a failure.
                    self.write_out(0, 0, began.elapsed());
                    return Err(error.into());
                }
            };
            match next(&url, &response).filter(|_| self.follow && redirects < MOST_REDIRECTS) {
                Some(location) => url = location,
                None => break response,
            }
            redirects += 1;
        };
        self.show(&response, began.elapsed())
    }

    fn show(&self, response: &Response<Bytes>, elapsed: Duration) -> Result<(), Failure> {
        let status = response.status();
        let mut shown = Vec::new();
        if self.include || self.head {
            shown.extend_from_slice(&head(response));
        }
        if self.verbose {
            eprint!("{}", String::from_utf8_lossy(&head(response)));
        }
        let failed = self.fail && (status.is_client_error() || status.is_server_error());
        if !failed {
            shown.extend_from_slice(response.body());
        }
        let written = match self.output.as_deref() {
            None | Some("-") => std::io::stdout().write_all(&shown),
            Some("/dev/null") => Ok(()),
            Some(path) => std::fs::write(path, &shown),
        };
        self.write_out(status.as_u16(), response.body().len(), elapsed);
        written.map_err(|error| Failure {
            code: 23,
            text: format!("writing: {error}"),
        })?;
        if failed {
            let text = format!("the server answered {status}");
            return Err(Failure { code: 22, text });
        }
        Ok(())
    }

    fn write_out(&self, status: u16, size: usize, elapsed: Duration) {
        let Some(format) = &self.write_out else {
            return;
        };
        let text = format
            .replace("%{http_code}", &format!("{status:03}"))
            .replace("%{response_code}", &format!("{status:03}"))
            .replace("%{size_download}", &size.to_string())
            .replace("%{time_total}", &format!("{:.6}", elapsed.as_secs_f64()))
            .replace("\\n", "\n")
            .replace("\\t", "\t");
        print!("{text}");
    }
}

fn takes_value(option: char) -> bool {
    matches!(option, 'X' | 'H' | 'A' | 'b' | 'u' | 'd' | 'm' | 'o' | 'w')
}

/// The short option that a long one stands for.
fn long(name: &str) -> Option<char> {
    Some(match name {
        "request" => 'X',
        "header" => 'H',
        "user-agent" => 'A',
        "cookie" => 'b',
        "user" => 'u',
        "data" | "data-raw" | "data-binary" => 'd',
        "max-time" | "connect-timeout" => 'm',
        "output" => 'o',
        "write-out" => 'w',
        "silent" => 's',
        "show-error" => 'S',
        "verbose" => 'v',
        "include" => 'i',
        "head" => 'I',
        "fail" => 'f',
        "location" => 'L',
        "insecure" => 'k',
        "http1.0" | "http1.1" => '0',
        "ipv4" => '4',
        "ipv6" => '6',
        "no-buffer" => 'N',
        _ => return None,
    })
}

/// Where a redirect leads.
fn next(url: &str, response: &Response<Bytes>) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    if location.contains("://") {
        return Some(location.to_owned());
    }
    let start = url.find("://").map_or(0, |at| at + 3);
    let origin = url[start..]
        .find(['/', '?'])
        .map_or(url, |end| &url[..start + end]);
    location
        .starts_with('/')
        .then(|| format!("{origin}{location}"))
}

fn head(response: &Response<Bytes>) -> Vec<u8> {
    let mut head = format!("{:?} {}\r\n", response.version(), response.status()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(
            &arguments
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn options_are_read_as_curl_reads_them() {
        let options = parse(&[
            "-sS",
            "-o",
            "/dev/null",
            "-w%{http_code}",
            "-H",
            "a: b",
            "--max-time=2",
            "u:80/x",
        ]);
        let options = options.unwrap();
        assert!(options.silent && options.show_error);
        assert_eq!(options.write_out.as_deref(), Some("%{http_code}"));
        assert_eq!(options.timeout, Some(Duration::from_secs(2)));
        assert_eq!(options.headers[0].0, "a");
        assert_eq!(options.urls, ["u:80/x"]);
    }

    #[test]
    fn wrong_options_are_errors() {
        for wrong in [
            &["-s"][..],
            &["--nope", "u"],
            &["-H", "no colon", "u"],
            &["u", "-m"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn redirects_are_followed_within_an_origin_and_beyond() {
        let redirect = |to: &str| {
            let response = Response::builder().status(302).header(LOCATION, to);
            response.body(Bytes::new()).unwrap()
        };
        assert_eq!(
            next("http://a:1/x?y", &redirect("/z")).as_deref(),
            Some("http://a:1/z")
        );
        assert_eq!(next("a", &redirect("/z")).as_deref(), Some("a/z"));
        assert_eq!(
            next("a/x", &redirect("http://b/")).as_deref(),
            Some("http://b/")
        );
    }
}
