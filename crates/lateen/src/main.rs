//! The `lateen` command: one binary that is the control plane, the proxy, the runtime of a local mesh and the tool that
//! explains them. Each verb is a module of `cmd`; this file only finds the right one.
//!
//! Several verbs enter namespaces, which the kernel allows only while a process has one thread. So nothing here starts a
//! runtime; the verbs do, when they are where they want to be.

mod admin;
mod certificates;
mod cli;
mod cmd;
mod http;
mod log_levels;
mod memory;
mod migration;
mod output;
mod proxy_config;
mod selector;
mod state;
mod table;
mod target;
mod up;
mod world;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use cli::{Cli, Command, ExperimentalCommand};
use state::StateDir;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&cli::command().get_matches()).unwrap_or_else(|e| e.exit());
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            cmd::report_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let namespace = cli.namespace.as_deref();
    let state = || StateDir::locate(cli.state.clone());
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    match cli.command {
        Command::Up(args) => cmd::up::run(&state()?, namespace, &args),
        Command::Down => done(cmd::down::run(&state()?)),
        Command::Exec(args) => cmd::exec::run(&state()?, namespace, &args),
        Command::Logs(args) => done(cmd::logs::run(&state()?, namespace, &args)),
        Command::Get(args) => done(cmd::get::run(&state()?, namespace, &args)),
        Command::Validate(args) => cmd::validate::run(namespace, &args),
        Command::Analyze(args) => cmd::analyze::run(&state()?, namespace, &args),
        Command::ProxyStatus(args) => done(cmd::proxy_status::run(&state()?, namespace, &args)),
        Command::ProxyConfig(command) => {
            done(cmd::proxy_config::run(&state()?, namespace, command))
        }
        Command::Check(args) => cmd::check::run(&state()?, namespace, &args),
        Command::Ca(command) => done(cmd::ca::run(&state()?, &command)),
        Command::Admin { target, path } => {
            let answer = admin::ask(&state()?, namespace, &target, ("GET", &path))?;
            done(output::print(&String::from_utf8_lossy(&answer)))
        }
        Command::Explain(args) => cmd::explain::run(&state()?, namespace, &args),
        Command::Test(args) => cmd::test::run(namespace, &args),
        Command::Authn(command) => cmd::security::authn(&state()?, namespace, command),
        Command::Authz(command) => cmd::security::authz(&state()?, namespace, command),
        Command::Experimental(ExperimentalCommand::Authz(command)) => {
            cmd::security::authz(&state()?, namespace, command)
        }
        Command::Experimental(ExperimentalCommand::Describe(command)) => {
            done(cmd::describe::run(&state()?, namespace, command))
        }
        Command::Completion { shell } => done(cmd::completion(shell)),
        Command::Istiod(args) => cmd::istiod::run(&state()?, namespace, &args),
        Command::Proxy(args) => cmd::proxy::run(&args),
        Command::Pod { arguments } => Ok(lateen_local::pod::main(&arguments)),
        Command::App { argv } => Ok(cmd::app::run(&argv)),
        Command::Version { output } => done(cmd::version(output)),
    }
}
