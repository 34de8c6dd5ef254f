//! Which application stands in for which image.
//!
//! An image is recognised by the last parts of its repository, whatever registry it comes from: mirrors are common, and
//! Istio has moved its samples between registries.

use crate::Environment;

/// The application that stands in for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The application's name, for [`crate::run`].
    pub application: &'static str,
    /// Arguments that stand for the image's own entry point; a container's `args` replace [`StandIn::command`].
    pub arguments: Vec<String>,
    /// What the image would run by default after its entry point.
    pub command: Vec<String>,
    /// Environment variables that the image sets; the container's own win.
    pub environment: Environment,
}

impl StandIn {
    fn new(application: &'static str) -> StandIn {
        StandIn {
            application,
            arguments: Vec::new(),
            command: Vec::new(),
            environment: Environment::new(),
        }
    }

    fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> StandIn {
        self.arguments = arguments.map(str::to_owned).to_vec();
        self
    }

    fn command<const N: usize>(mut self, command: [&str; N]) -> StandIn {
        self.command = command.map(str::to_owned).to_vec();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> StandIn {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The application's whole argument list in a container with these `args` (`None` if it has none).
    pub fn argument_list(&self, args: Option<&[String]>) -> Vec<String> {
        let rest = args.unwrap_or(&self.command);
        self.arguments.iter().chain(rest).cloned().collect()
    }
}

/// An image reference taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reference<'a> {
    /// Registry and path, without tag and digest.
    repository: &'a str,
    tag: &'a str,
}

impl<'a> Reference<'a> {
    fn parse(image: &'a str) -> Reference<'a> {
        let named = image.split_once('@').map_or(image, |(named, _)| named);
        // A colon before the last slash belongs to the registry's port.
        let (repository, tag) = match named.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (named, "latest"),
        };
        Reference { repository, tag }
    }

    fn name(self) -> &'a str {
        self.repository
            .rsplit('/')
            .next()
            .unwrap_or(self.repository)
    }
}

/// The stand-in for `image`, if there is one.
pub fn find(image: &str) -> Option<StandIn> {
    let reference = Reference::parse(image);
    let name = reference.name();
    if let Some(service) = name.strip_prefix("examples-bookinfo-") {
        return bookinfo(service);
    }
    let stand_in = match name {
        "examples-helloworld-v1" => StandIn::new("helloworld").variable("SERVICE_VERSION", "v1"),
        "examples-helloworld-v2" => StandIn::new("helloworld").variable("SERVICE_VERSION", "v2"),
        "hello-app" => {
            StandIn::new("hello-app").arguments(["--version", hello_version(reference.tag)])
        }
        "httpbin" => httpbin("python", "80"),
        "go-httpbin" => httpbin("go", "8080"),
        "tcp-echo-server" => StandIn::new("tcp-echo").command(["9000", "hello"]),
        "tornado-websocket-example" => StandIn::new("websocket-echo").arguments(["--port", "8888"]),
        "app" if reference.repository.ends_with("testing/app") => StandIn::new("echo"),
        "ext-authz" => StandIn::new("ext-authz"),
        "health" if reference.tag == "example" => StandIn::new("health"),
        "curl" | "curl-ssl" => StandIn::new("exec").arguments(["--default", "http-get"]),
        "nginx" | "httpd" | "nginx-unprivileged" => {
            let port = if name == "nginx-unprivileged" {
                "8080"
            } else {
                "80"
            };
            StandIn::new("static").arguments(["--port", port])
        }
        // Their own default is a shell without input, which would end at once.
        "busybox" | "alpine" | "debian" | "ubuntu" => {
            StandIn::new("exec").command(["sleep", "infinity"])
        }
        "pause" => StandIn::new("sleep"),
        _ => return None,
    };
    Some(stand_in)
}

/// The stand-in for a program that a container's `command` names, for machines that do not have it.
pub fn find_program(program: &str) -> Option<StandIn> {
    match program.rsplit('/').next().unwrap_or(program) {
        "sleep" => Some(StandIn::new("sleep")),
        "curl" => Some(StandIn::new("http-get")),
        _ => None,
    }
}

fn httpbin(flavor: &str, port: &str) -> StandIn {
    StandIn::new("httpbin").arguments(["--flavor", flavor, "--port", port])
}

/// `hello-app:1.0` says `1.0.0`.
fn hello_version(tag: &str) -> &'static str {
    match tag {
        "1.0" | "1.0.0" | "v1" => "1.0.0",
        _ => "2.0.0",
    }
}

fn bookinfo(service: &str) -> Option<StandIn> {
    let (service, version) = service.split_once("-v")?;
    let version = format!("v{version}");
    let stand_in = match (service, version.as_str()) {
        ("productpage", _) => StandIn::new("bookinfo-productpage"),
        ("details", "v1") => StandIn::new("bookinfo-details"),
        // v2 needs a database; the others misbehave in their own ways.
        ("ratings", "v1" | "v-faulty" | "v-delayed" | "v-unavailable" | "v-unhealthy") => {
            StandIn::new("bookinfo-ratings")
        }
        ("reviews", "v1") => reviews("false", "black"),
        ("reviews", "v2") => reviews("true", "black"),
        ("reviews", "v3") => reviews("true", "red"),
        _ => return None,
    };
    Some(
        stand_in
            .command(["9080"])
            .variable("SERVICE_VERSION", &version),
    )
}

fn reviews(ratings: &str, color: &str) -> StandIn {
    StandIn::new("bookinfo-reviews")
        .variable("ENABLE_RATINGS", ratings)
        .variable("STAR_COLOR", color)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(image: &str, name: &str) -> Option<String> {
        find(image).and_then(|stand_in| stand_in.environment.get(name).cloned())
    }

    #[test]
    fn every_image_of_the_samples_is_known() {
        for (image, application) in [
            (
                "docker.io/istio/examples-bookinfo-productpage-v1:1.20.3",
                "bookinfo-productpage",
            ),
            (
                "registry.istio.io/release/examples-bookinfo-details-v1:1.20.3",
                "bookinfo-details",
            ),
            (
                "istio/examples-bookinfo-ratings-v1:1.18.0",
                "bookinfo-ratings",
            ),
            (
                "localhost:5000/examples-bookinfo-reviews-v3",
                "bookinfo-reviews",
            ),
            (
                "registry.istio.io/release/examples-helloworld-v1",
                "helloworld",
            ),
            ("gcr.io/google-samples/hello-app:1.0", "hello-app"),
            (
                "us-docker.pkg.dev/google-samples/containers/gke/hello-app:2.0",
                "hello-app",
            ),
            ("docker.io/mccutchen/go-httpbin:v2.15.0", "httpbin"),
            ("kennethreitz/httpbin", "httpbin"),
            ("docker.io/kong/httpbin", "httpbin"),
            ("registry.istio.io/release/tcp-echo-server:1.3", "tcp-echo"),
            ("registry.istio.io/testing/app:latest", "echo"),
            ("registry.istio.io/testing/ext-authz:latest", "ext-authz"),
            ("registry.istio.io/release/health:example", "health"),
            (
                "docker.io/hiroakis/tornado-websocket-example",
                "websocket-echo",
            ),
            ("curlimages/curl", "exec"),
            ("governmentpaas/curl-ssl", "exec"),
            ("nginx:1.25@sha256:0123", "static"),
            ("docker.io/library/busybox:1.28", "exec"),
            ("alpine", "exec"),
        ] {
            assert_eq!(
                find(image).map(|found| found.application),
                Some(application),
                "{image}"
            );
        }
        for unknown in [
            "example.com/app:1",
            "redis",
            "examples-bookinfo-ratings-v2:1",
            "",
        ] {
            assert_eq!(find(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn versions_follow_the_image() {
        let reviews = "docker.io/istio/examples-bookinfo-reviews-v3:1.20.3";
        assert_eq!(variable(reviews, "STAR_COLOR").as_deref(), Some("red"));
        assert_eq!(variable(reviews, "ENABLE_RATINGS").as_deref(), Some("true"));
        let faulty = "istio/examples-bookinfo-ratings-v-faulty:1.20.3";
        assert_eq!(
            variable(faulty, "SERVICE_VERSION").as_deref(),
            Some("v-faulty")
        );
        let old = find("gcr.io/google-samples/hello-app:1.0").unwrap();
        assert_eq!(old.argument_list(None), ["--version", "1.0.0"]);
    }

    #[test]
    fn args_replace_the_images_command_and_not_its_entry_point() {
        let echo = find("istio/tcp-echo-server:1.3").unwrap();
        assert_eq!(echo.argument_list(None), ["9000", "hello"]);
        let args = ["9000,9001".to_owned(), "one".to_owned()];
        assert_eq!(echo.argument_list(Some(&args)), args);
    }
}
