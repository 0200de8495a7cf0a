//! `uq4ct serve`: a finished run over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use train::answering::Answerer;
use train::dashboard::hangup::hang_up;
use train::run_directory::RunDirectory;

use super::flags::{PlaceArgs, PromiseArgs, explain};
use super::newest::run_or_newest;
use super::process::{hangup_is_ignored, logging, open_files, print, tell};
use super::usage::wrong;
use crate::kernels::Told;
use crate::serve::connections::{ConnectionLimits, serve};
use crate::serve::metrics::Metrics;
use crate::serve::worker::{Batching, Worker};
use crate::serve::{Limits, router};

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// A finished run's directory [default: the newest below runs]
    run: Option<PathBuf>,
    /// Address to listen on; anything but this machine itself needs a token
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0: any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A file whose first line is the token of every request [env: UQ4CT_TOKEN, the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Questions asked together at most, of all requests that wait, by turns
    #[arg(hide_short_help = true, long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Milliseconds that a question waits for others to be asked with it
    #[arg(hide_short_help = true, long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=60_000))]
    wait: u64,
    /// Requests that may wait; more are turned away
    #[arg(hide_short_help = true, long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// Questions of one request
    #[arg(hide_short_help = true, long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    max_questions: u16,
    /// Bytes of one request
    #[arg(hide_short_help = true, long, default_value_t = 1 << 20)]
    max_body: usize,
    /// Seconds for one request. One that would take longer is refused
    #[arg(hide_short_help = true, long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Connections at a time; one more takes the place of the one that has been idle longest
    #[arg(hide_short_help = true, long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Seconds that a connection may take for the head of a request, or stay unused
    #[arg(hide_short_help = true, long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle: u64,
    #[command(flatten)]
    promise: PromiseArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `serve`.
pub(super) fn run(args: ServeArgs) -> Result<ExitCode> {
    logging();
    let token = token(&args)?;
    if !args.host.is_loopback() && token.is_none() {
        bail!(
            "--host {} is open to others: set a token with --token-file or UQ4CT_TOKEN",
            args.host
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the server cannot start")?;
    // Before the weights are loaded: a port that is taken should cost no waiting.
    let address = SocketAddr::new(args.host, args.port);
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .with_context(|| format!("{address} cannot be listened on: choose another --port"))?;
    let metrics = Arc::new(Metrics::default());
    let _compiling = Told::start(tell);
    let (worker, about, thread) = start(&args, metrics.clone())?;
    for said in [&about["calibration"], &about["promise"]] {
        said.as_str().into_iter().for_each(tell);
    }
    let time = Duration::from_secs(args.timeout);
    let connections = ConnectionLimits {
        connections: connections(args.connections.into()),
        idle: Duration::from_secs(args.idle),
        time,
    };
    let limits = Limits {
        body: args.max_body,
        questions: args.max_questions.into(),
        time,
        token,
    };
    let router = router(worker, metrics, limits, about);
    print(format_args!(
        "Listening on http://{}",
        listener.local_addr()?
    ));
    runtime.block_on(serve(listener, router, connections, stop()));
    tell("Stopped.");
    // The last way to the thread is gone with the routes. Its present batch is not waited for.
    drop(runtime);
    if thread.is_finished() {
        let _ = thread.join();
    }
    Ok(ExitCode::SUCCESS)
}

fn start(
    args: &ServeArgs,
    metrics: Arc<Metrics>,
) -> Result<(Worker, serde_json::Value, std::thread::JoinHandle<()>)> {
    let directory = run_or_newest(args.run.as_deref())?;
    let (_, config) = RunDirectory::open(&directory)?;
    let setup = args.places.finished(&directory, &config, Arc::default())?;
    let (alpha, promise) = (args.promise.alpha, args.promise.promise());
    let batching = Batching {
        questions: args.batch.into(),
        wait: Duration::from_millis(args.wait),
        queue: args.queue.into(),
        time: Duration::from_secs(args.timeout),
    };
    let run = directory.display().to_string();
    let describe = move |answerer: &Answerer| {
        let rule = answerer.abstention.as_ref();
        json!({
            "run": run,
            "dataset": config.data.title(),
            "method": config.method.title(),
            "model": config.model.name,
            "held_out_questions": answerer.held_out,
            "calibration": answerer.calibration(),
            "writes": answerer.writes(),
            "context": answerer.reads_context(),
            "promise": rule.map(|rule| explain(rule, answerer.held_out)),
            "version": env!("CARGO_PKG_VERSION"),
        })
    };
    let open = move || Answerer::open(&setup, alpha, promise);
    Ok(Worker::start(open, describe, batching, metrics)?)
}

fn token(args: &ServeArgs) -> Result<Option<String>> {
    let (place, text) = match &args.token_file {
        Some(file) => {
            let name = file.display();
            let text =
                std::fs::read_to_string(file).with_context(|| format!("{name} cannot be read"))?;
            (
                name.to_string(),
                text.lines().next().unwrap_or_default().to_owned(),
            )
        }
        None => match std::env::var("UQ4CT_TOKEN") {
            Ok(token) => ("UQ4CT_TOKEN".into(), token),
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(wrong(format_args!("UQ4CT_TOKEN: {error}"))),
        },
    };
    let token = text.trim();
    if token.len() < 16 || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong(format_args!(
            "{place}: expected a token of at least 16 plain characters, such as `openssl rand -hex 16` makes"
        )));
    }
    Ok(Some(token.into()))
}

/// As many connections as the files that this process may open allow.
fn connections(wanted: usize) -> usize {
    /// Files of the process that are no connections, and some to spare.
    const OTHERS: usize = 24;
    let Some(files) = open_files(wanted + OTHERS) else {
        return wanted;
    };
    let most = files.saturating_sub(OTHERS).max(1);
    if most < wanted {
        tracing::warn!(
            "{most} connections instead of {wanted}: this process may open {files} files (ulimit -n)"
        );
    }
    wanted.min(most)
}

/// Waits for Ctrl-C or, where there are such, SIGTERM and SIGHUP; SIGHUP not under `nohup`.
async fn stop() {
    let interrupt = async {
        // Without a handler the server cannot be stopped by hand: it runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = async {
            let caught = match hangup_is_ignored() {
                true => None,
                false => signal(SignalKind::hangup()).ok(),
            };
            match caught {
                Some(mut caught) => caught.recv().await,
                None => std::future::pending().await,
            }
        };
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                () = interrupt => {}
                _ = terminate.recv() => {}
                _ = hangup => hang_up(),
            }
            return;
        }
    }
    interrupt.await;
}
