//! `lateen explain`: the way of a described request through a mesh, decision by decision, without sending it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lateen_explain::{Asked, Client, Explanation, Look, Mesh, Options, Places, render};
use serde_json::json;

use crate::cli::{ExplainArgs, Structured};
use crate::output::{self, print_json, print_yaml};
use crate::proxy_config::dump::ConfigDump;
use crate::state::StateDir;
use crate::world;

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    args: &ExplainArgs,
) -> Result<ExitCode> {
    let asked = asked(args)?;
    let options = Options {
        seed: args.seed,
        listener: args.listener,
        now: output::now().unsigned_abs(),
    };
    let explanation = match &args.config_dump {
        Some(dump) => {
            let places = world::places(&args.filename, namespace)?;
            of_dump(dump, &places, &asked, options)?
        }
        None => {
            let mesh = world::mesh(state, namespace, &args.filename)?;
            of_mesh(&mesh, namespace, args, &asked, options)?
        }
    };
    print(&explanation, args)?;
    Ok(if explanation.succeeds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn of_mesh(
    mesh: &Mesh,
    namespace: Option<&str>,
    args: &ExplainArgs,
    asked: &Asked,
    options: Options,
) -> Result<Explanation> {
    let client = client(mesh, namespace, args)?;
    if let Some(port) = args.listener {
        let (Client::Workload { namespace, pod } | Client::Outside { namespace, pod }) = &client;
        let pod = mesh.find(&format!("pod/{pod}"), Some(namespace))?;
        let proxy = mesh
            .proxy(pod)
            .with_context(|| format!("{} has no proxy, so no listener {port}", pod.name))?;
        return Ok(lateen_explain::explain_proxy(
            proxy,
            mesh.places(),
            asked,
            options,
        )?);
    }
    Ok(lateen_explain::explain(mesh, &client, asked, options)?)
}

/// Who sends it: the workload named, else somebody outside, through a gateway.
fn client(mesh: &Mesh, namespace: Option<&str>, args: &ExplainArgs) -> Result<Client> {
    let of = |pod: &lateen_compile::Pod| (pod.namespace.clone(), pod.name.clone());
    match (&args.from, &args.gateway) {
        (Some(_), Some(_)) => {
            bail!("--from is inside the mesh and --gateway is its edge; give one")
        }
        (Some(from), None) => {
            let (namespace, pod) = of(mesh.find(from, namespace)?);
            Ok(Client::Workload { namespace, pod })
        }
        (None, gateway) => {
            let (namespace, pod) = of(mesh.gateway(gateway.as_deref(), namespace)?);
            Ok(Client::Outside { namespace, pod })
        }
    }
}

/// The request: a curl line after `--`, or `[METHOD] URL`.
fn asked(args: &ExplainArgs) -> Result<Asked> {
    let mut asked = if args.curl.is_empty() {
        match &args.request[..] {
            [] => bail!("what is to be explained? Give [METHOD] URL, or a curl line after --"),
            [url] => Asked::parse(None, url, &args.header)?,
            [method, url] => Asked::parse(Some(&method.to_ascii_uppercase()), url, &args.header)?,
            [_, _, rest @ ..] => bail!("`{}` is more than [METHOD] URL", rest.join(" ")),
        }
    } else {
        if !args.request.is_empty() {
            bail!("give [METHOD] URL or a curl line, not both");
        }
        let mut asked = lateen_explain::parse_curl(&args.curl)?;
        for header in &args.header {
            asked.add_header(header)?;
        }
        asked
    };
    asked.http2 |= args.http2;
    asked.resolve = args.resolve.or(asked.resolve);
    asked.certificate = args.cert.clone().or(asked.certificate);
    Ok(asked)
}

fn of_dump(path: &Path, places: &Places, asked: &Asked, options: Options) -> Result<Explanation> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin().lock()).context("reading standard input")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
    };
    let dump = ConfigDump::parse(text.as_bytes())?;
    let proxy = world::proxy_of_dump(&dump)?;
    Ok(lateen_explain::explain_proxy(
        Arc::new(proxy),
        places,
        asked,
        options,
    )?)
}

fn print(explanation: &Explanation, args: &ExplainArgs) -> Result<()> {
    let value = || serde_json::to_value(explanation).context("encoding the explanation");
    match args.output {
        None => output::print(&render(
            explanation,
            Look {
                colour: output::colour(),
                verbose: args.verbose,
            },
        )),
        Some(format) => {
            let mut value = value()?;
            value["succeeds"] = json!(explanation.succeeds());
            match format {
                Structured::Json => print_json(&value),
                Structured::Yaml => print_yaml(&value),
            }
        }
    }
}
