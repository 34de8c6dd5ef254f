//! The command line: every verb, flag and example. Parsing records what was typed; the commands act on it.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use lateen_local::redirect::PacketFilter;

/// Lateen: an Istio-compatible service mesh in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "lateen",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[command(
    after_help = "Examples:\n  lateen up examples/bookinfo --publish 18080:istio-ingressgateway:80\n  \
    lateen exec deploy/reviews-v1 -- curl -s http://ratings:9080/ratings/0\n  lateen validate -f examples/\n  lateen proxy-status"
)]
pub(crate) struct Cli {
    /// Where the mesh keeps its CA, logs and state.
    #[arg(long, global = true, env = "LATEEN_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// Namespace of the object; for `up` and `validate`, of objects that name none.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The name this program was started by: a link called `istioctl` is helped and completed under that name.
pub(crate) fn called() -> &'static str {
    let name = std::env::args_os().next().map(PathBuf::from);
    match name.as_deref().and_then(|name| name.file_name()) {
        Some(name) if name == "istioctl" => "istioctl",
        _ => "lateen",
    }
}

/// The command line's definition, under the name that is in use.
pub(crate) fn command() -> clap::Command {
    let name = called();
    Cli::command().name(name).bin_name(name)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a mesh from files of Kubernetes and Istio YAML; edits are picked up live
    Up(UpArgs),
    /// End the running mesh
    Down,
    /// Run a command in a workload's network and with its environment
    #[command(
        after_help = "Examples:\n  lateen exec deploy/reviews-v1 -- curl -s http://ratings:9080/ratings/0\n  \
        lateen exec -n plain deploy/outsider -- curl -sv http://reviews.default:9080/"
    )]
    Exec(ExecArgs),
    /// Print a container's log
    #[command(alias = "log")]
    Logs(LogsArgs),
    /// List pods, services or any configured object
    #[command(
        after_help = "Examples:\n  lateen get pods -A\n  lateen get vs,dr -o yaml\n  lateen get svc reviews -o json"
    )]
    Get(GetArgs),
    /// Check files: every problem with file, line and fix; exit status 1 on errors
    #[command(
        visible_alias = "v",
        after_help = "Examples:\n  lateen validate mesh/\n  kustomize build overlays/prod | lateen validate -\n\n\
        Names of hosts, subsets, ports, gateways and labels are looked up in these files. What they cannot know, because they hold nothing of the\n\
        kind in that namespace, is not judged; one note (LAT3019) says which names those are."
    )]
    Validate(ValidateArgs),
    /// What `validate` finds, as `istioctl analyze` tells it: in the running mesh, with files as if they were applied, or in files alone
    #[command(
        after_help = "Examples:\n  lateen analyze                                   # the running mesh, namespace default\n  \
        lateen analyze -A new.yaml                       # the running mesh, as if new.yaml were applied\n  \
        lateen analyze -A --use-kube=false mesh/         # files alone\n  \
        lateen analyze -A mesh/ --failure-threshold Warning -o json\n  \
        lateen analyze -A mesh/ -S \"IST0102=Namespace shop\" -S \"IST0101=VirtualService *.legacy\"\n\n\
        Exit status: 79 if something as bad as --failure-threshold was found (with -o log, as istioctl has it).\n\
        An object suppresses codes by its annotation galley.istio.io/analyze-suppress: CODE,CODE or \"*\"."
    )]
    Analyze(AnalyzeArgs),
    /// Which proxies are connected, and whether they have the latest configuration
    #[command(visible_alias = "ps")]
    ProxyStatus(ProxyStatusArgs),
    /// What configuration a proxy has, or had when its config dump was saved (`-f FILE` in place of the pod)
    #[command(visible_alias = "pc", subcommand)]
    ProxyConfig(ProxyConfigCommand),
    /// What will expire and when: the mesh's roots, proxies' certificates, Secrets; exit status 1 when it is pressing
    #[command(
        after_help = "Examples:\n  lateen check\n  lateen check --within 30 -o json\n  lateen check -f gateways/"
    )]
    Check(CheckArgs),
    /// The mesh's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// Why a request goes where it goes, or is refused: every decision with file and line, without sending it
    #[command(
        after_help = "Examples:\n  lateen explain -f examples/bookinfo --from deploy/productpage-v1 GET http://reviews:9080/reviews/0 -H 'end-user: jason'\n  \
        lateen explain -f examples/bookinfo http://bookinfo.example/productpage       # from outside, through the ingress gateway\n  \
        lateen explain -f DIR --from deploy/web -- curl -X POST -H 'x-canary: true' http://api/orders\n  \
        lateen explain --from deploy/web tcp://mongodb:27017                           # against the running mesh\n  \
        lateen explain --config-dump dump.json --listener 15001 http://reviews:9080/\n  \
        lateen explain -f DIR --from deploy/web --claim role=admin GET http://api/admin # with a token of the issuer's\n  \
        lateen explain -f DIR --from deploy/web --token eyJ… --jwks https://issuer.example=keys.json http://api/\n  \
        lateen explain d-4f2a9c81d0e3b755                # a denial that the running mesh made\n\n\
        Exit status: 0 if every such request would succeed, 1 if not.\n\
        Marks: \u{2713} passes, \u{2717} ends here, ~ nearly matched, - passed over, * one of several by chance."
    )]
    Explain(ExplainArgs),
    /// Ask a proxy's admin interface for a page (started by `explain` and others for each pod)
    #[command(hide = true)]
    Admin {
        /// The pod.
        target: String,
        /// The page, as `/stats`.
        path: String,
    },
    /// Run assertions about a mesh from `*.meshtest.yaml` files, without starting anything
    #[command(
        after_help = "Examples:\n  lateen test examples/\n  lateen test mesh/reviews.meshtest.yaml --verbose\n  lateen test . --junit report.xml\n\n\
        A file of tests looks like this (docs/reference/meshtest.md has all of it):\n\n  \
        from: deploy/productpage-v1\n  tests:\n  - name: jason sees version 2\n    request: GET http://reviews:9080/reviews/0\n    \
        headers: {end-user: jason}\n    expect: {to: reviews/v2, timeout: 5s}"
    )]
    Test(TestArgs),
    /// How workloads authenticate each other
    #[command(subcommand)]
    Authn(AuthnCommand),
    /// Who may do what
    #[command(subcommand)]
    Authz(AuthzCommand),
    /// istioctl's experimental commands
    #[command(visible_alias = "x", subcommand)]
    Experimental(ExperimentalCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  lateen completion bash > /etc/bash_completion.d/lateen")]
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Run the control plane (started by `up`)
    Istiod(IstiodArgs),
    /// Run a sidecar or gateway proxy (started in each pod)
    Proxy(ProxyArgs),
    /// Run one pod from its plan on standard input (started by `up`)
    #[command(hide = true)]
    Pod {
        /// The stage, and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a built-in stand-in for a sample's image
    App {
        /// The application, and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        argv: Vec<String>,
    },
    /// Print the version
    Version {
        /// Output format.
        #[arg(short, long, value_enum)]
        output: Option<Structured>,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataPlane {
    /// Lateen's own proxy.
    #[default]
    Lateen,
    /// A stock Envoy.
    Envoy,
}

impl DataPlane {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lateen => "lateen",
            Self::Envoy => "envoy",
        }
    }
}

fn packet_filter() -> impl TypedValueParser<Value = PacketFilter> {
    let names = PossibleValuesParser::new(PacketFilter::ALL.map(PacketFilter::as_str));
    names.map(|name| name.parse().unwrap_or_default())
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Files or directories of YAML.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Open a port of this host to a service's port: `18080:istio-ingressgateway:80` (namespace after a dot, else searched).
    #[arg(long, value_name = "[ADDR:]HOSTPORT:SERVICE:PORT")]
    pub(crate) publish: Vec<String>,
    /// Which proxy runs beside the workloads.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
    /// Run a local command for an image: `registry/app:*=./app --port 8080`.
    #[arg(long, value_name = "PATTERN=COMMAND")]
    pub(crate) image: Vec<String>,
    /// Return once everything is ready, or with exit status 1 once it is clear that something will not be, and leave the mesh running.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give every pod and service an IPv6 address too.
    #[arg(long)]
    pub(crate) dual_stack: bool,
    /// How traffic is sent through the proxies: `nftables` needs no program, the others the tools of that name.
    #[arg(long, value_name = "HOW", default_value_t, value_parser = packet_filter())]
    pub(crate) packet_filter: PacketFilter,
    /// Sign with an authority of your own: a directory of `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.
    #[arg(long, value_name = "DIR")]
    pub(crate) cacerts: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// A pod, or `deploy/NAME` for one of its pods.
    pub(crate) target: String,
    /// The container whose environment to use; the first by default.
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    /// Accepted for kubectl's sake: standard input is always passed on.
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Accepted for kubectl's sake: a terminal is passed on when there is one.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// A pod, or `deploy/NAME` for one of its pods.
    pub(crate) target: String,
    /// The container; the first by default. `istio-proxy` is the sidecar.
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    /// Keep printing what is added.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// The log of the container's previous run.
    #[arg(short, long)]
    pub(crate) previous: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Structured {
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetOutput {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    Json,
    Yaml,
    /// `kind/name`, a line each.
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Kinds, separated by commas: `pods`, `svc`, `virtualservices`, `all`, …
    pub(crate) kinds: String,
    /// Only the object with this name.
    pub(crate) name: Option<String>,
    /// In every namespace.
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: GetOutput,
    /// Only objects with these labels: `app=reviews,version!=v1`.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Read these files instead of the running mesh's.
    #[arg(short, long)]
    pub(crate) filename: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportOutput {
    /// Snippets for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files or directories of YAML; `-` reads standard input.
    #[arg(short, long, required_unless_present = "paths")]
    pub(crate) filename: Vec<PathBuf>,
    /// Files or directories of YAML.
    pub(crate) paths: Vec<PathBuf>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: ReportOutput,
    /// Which proxy it is for: a stock Envoy acts on some fields that Lateen's does not, and the other way round.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnalyzeOutput {
    /// A line for each finding.
    #[default]
    Log,
    Json,
    Yaml,
}

/// How bad a finding is, in istioctl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    #[value(name = "Info")]
    Info,
    #[value(name = "Warning", alias = "Warn")]
    Warning,
    #[value(name = "Error")]
    Error,
}

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Files or directories of YAML; `-` reads standard input. Without any, the running mesh.
    pub(crate) paths: Vec<PathBuf>,
    /// Tell of every namespace, not of one (`-n`, or `default`).
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: AnalyzeOutput,
    /// How bad a finding has to be for the exit status to say so.
    #[arg(long, value_enum, ignore_case = true, default_value = "Error")]
    pub(crate) failure_threshold: Level,
    /// How bad a finding has to be to be told.
    #[arg(long, value_enum, ignore_case = true, default_value = "Info")]
    pub(crate) output_threshold: Level,
    /// Do not tell a code of these objects: `CODE=KIND NAME.NAMESPACE`, in which `*` stands for any text. May be repeated.
    #[arg(short = 'S', long, value_name = "CODE=OBJECT")]
    pub(crate) suppress: Vec<String>,
    /// Look at the running mesh, too; false: at the files alone.
    #[arg(short = 'k', long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) use_kube: bool,
    /// Pass over documents that cannot be read as objects.
    #[arg(long)]
    pub(crate) ignore_unknown: bool,
    /// Directories are read in depth anyway.
    #[arg(short = 'R', long, hide = true)]
    pub(crate) recursive: bool,
    /// Which proxy it is for: a stock Envoy acts on some fields that Lateen's does not, and the other way round.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Files or directories of YAML whose Secrets to look at; by default those of the running mesh.
    #[arg(short, long)]
    pub(crate) filename: Vec<PathBuf>,
    /// Fail also when anything that does not renew itself ends within so many days.
    #[arg(long, value_name = "DAYS")]
    pub(crate) within: Option<u64>,
    /// Output format.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Structured>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Replace the root: trust a new one beside the old, sign with it, then end trust in the old; no connection fails
    RotateRoot {
        /// Longest wait for the proxies in each step, in seconds. An interrupted rotation is taken up where it stopped.
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// `[METHOD] URL`: `http`, `https`, `tcp://host:port` or `tls://host:port`. Or the id of a denial, from `x-lateen-decision`.
    #[arg(value_name = "[METHOD] URL | ID")]
    pub(crate) request: Vec<String>,
    /// A curl line, after `--`.
    #[arg(last = true, value_name = "curl …")]
    pub(crate) curl: Vec<String>,
    /// Files or directories of YAML; without, the running mesh.
    #[arg(short, long)]
    pub(crate) filename: Vec<PathBuf>,
    /// With an ID: the pod whose proxy denied it; all are asked if not given.
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// The workload that sends it: `deploy/NAME`, a pod, or an app's name, with `.NAMESPACE` if need be.
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) from: Option<String>,
    /// It comes from outside, through this gateway workload; the ingress gateway if neither is given.
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) gateway: Option<String>,
    /// A header; may be given again.
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// Read one proxy's configuration from a dump of its /config_dump?include_eds; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) config_dump: Option<PathBuf>,
    /// Explain one proxy only, from this listener's port on.
    #[arg(long, value_name = "PORT")]
    pub(crate) listener: Option<u16>,
    /// Fix everything that chance decides; probabilities otherwise.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// HTTP/2 rather than HTTP/1.1.
    #[arg(long)]
    pub(crate) http2: bool,
    /// The address the URL's host resolves to.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) resolve: Option<std::net::IpAddr>,
    /// The identity in the certificate that a client outside presents.
    #[arg(long, value_name = "IDENTITY")]
    pub(crate) cert: Option<String>,
    /// A token, as `authorization: Bearer TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// A claim of a token that is taken to be its issuer's own: `role=admin`, `groups=["a","b"]`; may be given again. What is not said is
    /// what the issuer's rule asks for; `aud=null` leaves the audience out.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "token")]
    pub(crate) claim: Vec<String>,
    /// The keys of an issuer whose rule has a `jwksUri`, from a file; may be given again.
    #[arg(long, value_name = "ISSUER=FILE")]
    pub(crate) jwks: Vec<String>,
    /// What external authorizers (CUSTOM policies) are taken to say.
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub(crate) ext_authz: Option<Answer>,
    /// Every alternative and every branch in full.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Output format; text for people if not given.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Structured>,
}

/// An external authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    Allow,
    Deny,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthnCommand {
    /// For each service a workload may call: what it speaks, what the server accepts, and whether they agree
    #[command(
        after_help = "Example:\n  lateen authn tls-check -f examples/bookinfo deploy/productpage-v1 reviews"
    )]
    TlsCheck {
        /// The workload that calls: a pod, or `deploy/NAME`, with `.NAMESPACE` if need be.
        target: String,
        /// Only services whose name holds this.
        service: Option<String>,
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
    },
    /// Who still sends plain text to whom in the running mesh, and what a switch to STRICT would break
    #[command(
        after_help = "Examples:\n  lateen authn migration\n  lateen authn migration -n production -o json\n\n\
        Exit status: 0 if STRICT would break nothing that was seen, 1 if it would."
    )]
    Migration {
        /// Output format.
        #[arg(short, long, value_enum)]
        output: Option<Structured>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthzCommand {
    /// For every workload of the mesh: whether it may send such a request to another
    #[command(
        after_help = "Examples:\n  lateen authz who-can -f examples/patterns --to deploy/reviews-v1 --method DELETE\n  \
        lateen authz who-can --to deploy/payments --method POST --path /refunds"
    )]
    WhoCan {
        /// The workload that is asked.
        #[arg(long, value_name = "WORKLOAD")]
        to: String,
        /// The method.
        #[arg(long, default_value = "GET")]
        method: String,
        /// The path.
        #[arg(long, default_value = "/")]
        path: String,
        /// The service's port; the first that leads to the workload if not given.
        #[arg(long)]
        port: Option<u16>,
        /// A header of the request; may be given again.
        #[arg(short = 'H', long, value_name = "NAME: VALUE")]
        header: Vec<String>,
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
        /// Output format.
        #[arg(short, long, value_enum)]
        output: Option<Structured>,
    },
    /// Access rules that never decide anything: that nothing matches, that another rule decides, that ask for identities nobody has
    #[command(
        after_help = "Examples:\n  lateen authz dead-rules -f mesh/\n  lateen authz dead-rules -n shop -o json\n\n\
        Exit status: 0 if there is none, 1 if there are some. `lateen validate` tells them, too."
    )]
    DeadRules {
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: ReportOutput,
    },
    /// The last denials of the running mesh's proxies, with what decided each
    #[command(
        after_help = "Examples:\n  lateen authz denials\n  lateen authz denials deploy/reviews-v1 -o json\n\n\
        `lateen explain ID` has more of each."
    )]
    Denials {
        /// Only those of this pod: its name, or `deploy/NAME`.
        target: Option<String>,
        /// Output format.
        #[arg(short, long, value_enum)]
        output: Option<Structured>,
    },
    /// The policies in force for a workload
    Check {
        /// The workload: a pod, or `deploy/NAME`.
        target: String,
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentalCommand {
    /// What the mesh makes of a pod or service
    #[command(visible_alias = "des", subcommand)]
    Describe(DescribeCommand),
    /// Who may do what
    #[command(subcommand)]
    Authz(AuthzCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DescribeCommand {
    /// A pod: its services, rules, security and routes
    #[command(visible_alias = "po")]
    Pod {
        /// The pod, or `deploy/NAME`, with `.NAMESPACE` if need be.
        target: String,
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
    },
    /// A service: the same, by its name
    #[command(visible_alias = "svc")]
    Service {
        /// The service, with `.NAMESPACE` if need be.
        target: String,
        /// Files or directories of YAML; without, the running mesh.
        #[arg(short, long)]
        filename: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Files of assertions, or directories that are searched for `*.meshtest.yaml`.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Write the results as JUnit XML, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Explain what fails.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: ReportOutput,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyStatusArgs {
    /// Only this proxy.
    pub(crate) target: Option<String>,
    /// Output format.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Structured>,
}

/// istioctl's formats: `short` is the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigOutput {
    #[default]
    Short,
    Json,
    Yaml,
}

/// What every `proxy-config` command takes.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["target", "file"])))]
pub(crate) struct ProxyTarget {
    /// A pod, or `deploy/NAME` for one of its pods.
    pub(crate) target: Option<String>,
    /// Read a saved config dump instead of asking a proxy.
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
    /// Output format.
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<ConfigOutput>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyConfigCommand {
    /// Listeners, filter chains and where they lead
    #[command(visible_alias = "l", aliases = ["listeners"])]
    Listener {
        #[command(flatten)]
        target: ProxyTarget,
        /// Only listeners with this address.
        #[arg(long)]
        address: Option<String>,
        /// Only listeners on this port.
        #[arg(long)]
        port: Option<u64>,
        /// Only listeners of this type: HTTP, TCP or HTTP+TCP.
        #[arg(long = "type")]
        kind: Option<String>,
    },
    /// Clusters: the services a proxy can reach
    #[command(visible_alias = "c", aliases = ["clusters"])]
    Cluster {
        #[command(flatten)]
        target: ProxyTarget,
        /// Only clusters of this service.
        #[arg(long)]
        fqdn: Option<String>,
        /// `inbound` or `outbound`.
        #[arg(long)]
        direction: Option<String>,
        /// Only this port.
        #[arg(long)]
        port: Option<u64>,
        /// Only this subset.
        #[arg(long)]
        subset: Option<String>,
    },
    /// Routes: what each request matches and who wrote it
    #[command(visible_alias = "r", aliases = ["routes"])]
    Route {
        #[command(flatten)]
        target: ProxyTarget,
        /// Only the route configuration with this name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Endpoints and their health
    #[command(visible_alias = "ep", aliases = ["endpoints"])]
    Endpoint {
        #[command(flatten)]
        target: ProxyTarget,
        /// Only endpoints with this address.
        #[arg(long)]
        address: Option<String>,
        /// Only endpoints on this port.
        #[arg(long)]
        port: Option<u64>,
        /// Only endpoints of this cluster.
        #[arg(long)]
        cluster: Option<String>,
        /// Only endpoints in this state: HEALTHY, UNHEALTHY, …
        #[arg(long)]
        status: Option<String>,
    },
    /// Certificates a proxy holds
    #[command(visible_alias = "s", aliases = ["secrets"])]
    Secret {
        #[command(flatten)]
        target: ProxyTarget,
    },
    /// The configuration a proxy was started with
    #[command(visible_alias = "b")]
    Bootstrap {
        #[command(flatten)]
        target: ProxyTarget,
    },
    /// Show or change a proxy's log levels
    #[command(visible_alias = "o")]
    Log {
        /// A pod, or `deploy/NAME` for one of its pods.
        target: String,
        /// A level, or `LOGGER:LEVEL` pairs separated by commas.
        #[arg(long)]
        level: Option<String>,
        /// Set every logger back to `warning`.
        #[arg(short, long)]
        reset: bool,
    },
    /// Everything above
    #[command(visible_alias = "a")]
    All {
        #[command(flatten)]
        target: ProxyTarget,
    },
}

#[derive(Debug, Args)]
pub(crate) struct IstiodArgs {
    /// Files or directories of YAML.
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The pods' state, as the supervisor writes it.
    #[arg(long)]
    pub(crate) pods: Option<PathBuf>,
    /// Addresses to serve on, beside loopback.
    #[arg(long)]
    pub(crate) listen: Vec<std::net::IpAddr>,
    /// Where ADS is served in plain text: to this machine alone, and without Secrets. Empty for nowhere.
    #[arg(
        long,
        alias = "grpcAddr",
        value_name = "[ADDR]:PORT",
        default_value = "127.0.0.1:15010"
    )]
    pub(crate) grpc_addr: String,
    /// The trust domain of identities; by default what the mesh's configuration says.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
    /// Sign with an authority of your own: a directory of `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.
    #[arg(long, value_name = "DIR")]
    pub(crate) cacerts: Option<PathBuf>,
    /// Give every pod and service an IPv6 address too.
    #[arg(long)]
    pub(crate) dual_stack: bool,
    /// Networks that keys of token issuers (`jwksUri`) are not fetched from, beside those that never are.
    #[arg(long, env = "BLOCKED_CIDRS_IN_JWKS_URIS", value_delimiter = ',')]
    pub(crate) jwks_blocked_cidrs: Vec<ipnet::IpNet>,
    /// Networks that keys are fetched from although they would not be, such as `127.0.0.0/8` for an issuer on this machine.
    #[arg(long, env = "LATEEN_JWKS_ALLOWED_CIDRS", value_delimiter = ',')]
    pub(crate) jwks_allowed_cidrs: Vec<ipnet::IpNet>,
    /// Root certificates (PEM) of servers of keys, beside the machine's.
    #[arg(long, env = "LATEEN_JWKS_CA")]
    pub(crate) jwks_ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyKind {
    Sidecar,
    Router,
}

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// `sidecar`, or `router` for a gateway.
    pub(crate) kind: ProxyKind,
    /// Which proxy to run.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
}
