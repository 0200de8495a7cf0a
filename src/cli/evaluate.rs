//! `uq4ct evaluate`: a finished run on other datasets.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use clap::Args;
use data::loader::LoaderState;
use train::dashboard::state::DashboardState;
use train::fine_tune::{Setup, evaluate, load_tuned, prepare_test};
use train::method;
use train::metric::{Bootstrap, Metrics};
use train::run_directory::{RunDirectory, write_predictions};
use train::telemetry::Telemetry;

use super::run::{PlaceArgs, environment, logging, print};

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub(super) struct EvaluateArgs {
    /// A finished run's directory
    run: PathBuf,
    /// Datasets other than the run's own, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    on: Vec<String>,
    /// At most this many test questions of each
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `evaluate`.
pub(super) fn run(args: EvaluateArgs) -> Result<ExitCode> {
    logging();
    let device = args.places.device()?;
    let (run, trained) = RunDirectory::open(&args.run)?;
    for dataset in &args.on {
        if *dataset == trained.data.dataset {
            bail!(
                "--on {dataset}: the run was trained on it and has scored it already, see {}",
                args.run.join("report.md").display()
            );
        }
        let mut config = trained.clone();
        config.data.dataset.clone_from(dataset);
        config.data.test_limit = args.limit;
        config.validate()?;
        let state = Arc::new(Mutex::new(DashboardState::default()));
        let setup = Setup {
            device: device.device.clone(),
            finder: args.places.finder(&config.model.name),
            run: args.run.clone(),
            resume: true,
            environment: environment(&device),
            telemetry: Telemetry::new(state),
            state: Arc::new(LoaderState::default()),
        };
        let mut prepared = prepare_test(&config, &setup.finder)?;
        let method = method::build(&config)?;
        let tuned = load_tuned(&run, &config, &mut prepared, &setup.device)?;
        let rows = evaluate(&config, &setup, dataset, &*method, &[tuned], &prepared.test)?
            .unwrap_or_default();
        let bootstrap = Bootstrap {
            resamples: config.evaluation.bootstrap,
            seed: config.data.split_seed,
        };
        let metrics = Metrics::of(&rows, config.evaluation.bins, bootstrap);
        let folder = format!("evaluation/{dataset}");
        write_predictions(&run.evaluation(dataset).join("predictions.jsonl"), &rows)?;
        run.write_json(&format!("{folder}/metrics.json"), &metrics)?;
        let show = |e: train::metric::Estimate| e.value.map_or("-".into(), |v| format!("{v:.4}"));
        print(format_args!(
            "{dataset}: n {}  accuracy {}  ECE {}  NLL {}",
            metrics.n,
            show(metrics.accuracy),
            show(metrics.expected_calibration_error),
            show(metrics.negative_log_likelihood)
        ));
    }
    Ok(ExitCode::SUCCESS)
}
