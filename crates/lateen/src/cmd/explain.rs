//! `lateen explain`: the way of a described request through a mesh, decision by decision, without sending it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lateen_explain::{Asked, Authorizer, Client, Explanation, Look, Mesh, Options, Places, render};
use serde_json::{Map, Value, json};

use super::decisions;
use crate::cli::{Answer, ExplainArgs, Structured};
use crate::output::{self, print_json, print_yaml};
use crate::proxy_config::dump::ConfigDump;
use crate::state::StateDir;
use crate::world;

pub(crate) fn run(
    state: &StateDir,
    namespace: Option<&str>,
    args: &ExplainArgs,
) -> Result<ExitCode> {
    if let [id] = &args.request[..]
        && decisions::is_id(id)
    {
        let wanted = (id.as_str(), args.pod.as_deref());
        return decisions::explain(state, namespace, wanted, args.output);
    }
    let mut asked = asked(args)?;
    let options = Options {
        seed: args.seed,
        listener: args.listener,
        now: output::now().unsigned_abs(),
        authorizer: args.ext_authz.map(|answer| match answer {
            Answer::Allow => Authorizer::Allows,
            Answer::Deny => Authorizer::Denies,
        }),
    };
    let explanation = match &args.config_dump {
        Some(dump) => {
            if !(args.claim.is_empty() && args.jwks.is_empty()) {
                bail!(
                    "a config dump holds the keys of issuers itself: give the token with --token, or the mesh's files instead of the dump"
                );
            }
            let places = world::places(&args.filename, namespace)?;
            of_dump(dump, &places, &asked, options)?
        }
        None => {
            let mesh = mesh(state, namespace, args)?;
            let claims = claims(&args.claim)?;
            if !claims.is_empty() {
                mesh.carry(&mut asked, claims, options.now)?;
            }
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

/// The mesh, with the keys given, and one that takes described tokens if there is one.
fn mesh(state: &StateDir, namespace: Option<&str>, args: &ExplainArgs) -> Result<Mesh> {
    let mut inputs = world::inputs(state, namespace, &args.filename)?;
    let given = world::jwks(&args.jwks, &inputs.resources)?;
    inputs.jwks.extend(given);
    if !args.claim.is_empty() {
        inputs = inputs.taking_described_tokens();
    }
    Ok(Mesh::new(inputs))
}

/// Claims as typed: a value that is JSON is that, another is a text.
fn claims(given: &[String]) -> Result<Map<String, Value>> {
    let claim = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| {
            format!("`{text}` is not a claim; write NAME=VALUE, such as role=admin")
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok((name.to_owned(), value))
    };
    given.iter().map(claim).collect()
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

/// The request: a curl line after `--` or in one quoted argument, or `[METHOD] URL`.
fn asked(args: &ExplainArgs) -> Result<Asked> {
    let pasted = match &args.request[..] {
        [line] if line.trim_start().starts_with("curl ") => Some(
            lateen_explain::split_words(line)
                .context("a quotation mark of the curl line is not closed")?,
        ),
        [curl, ..] if curl == "curl" => {
            bail!("put -- before the curl line: lateen explain … -- curl …")
        }
        _ => None,
    };
    let curl = pasted.as_ref().unwrap_or(&args.curl);
    let mut asked = if curl.is_empty() {
        match &args.request[..] {
            [] => bail!("what is to be explained? Give [METHOD] URL, or a curl line after --"),
            [url] => Asked::parse(None, url, &args.header)?,
            [method, url] => Asked::parse(Some(&method.to_ascii_uppercase()), url, &args.header)?,
            [_, _, rest @ ..] => bail!("`{}` is more than [METHOD] URL", rest.join(" ")),
        }
    } else {
        if pasted.is_none() && !args.request.is_empty() {
            bail!("give [METHOD] URL or a curl line, not both");
        }
        let mut asked = lateen_explain::parse_curl(curl)?;
        for header in &args.header {
            asked.add_header(header)?;
        }
        asked
    };
    if let Some(token) = &args.token {
        asked.set_header("authorization", &format!("Bearer {token}"))?;
    }
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
