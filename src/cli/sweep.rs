//! `uq4ct train --sweep`: settings that are varied, trained and scored as a table.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use train::RunConfig;
use train::config::ConfigLayers;
use train::dashboard::state::clock;
use train::registry;
use train::reproduce::scheduler::{Ended, Job};
use train::reproduce::sweep::{self, Varied};
use train::reproduce::work::Estimates;
use train::reproduce::{Options, Plan, render, table_files};

use super::flags::PlaceArgs;
use super::process::{OnHangup, print, tell, threads};
use super::reproduce::{Work, exit_code};
use super::usage::wrong;

/// Flags about varied settings.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// Train and score once for each value of a setting, and make a table; may be repeated, then
    /// every combination is a row. The same command goes on after a stop. --run names its root
    /// [default: runs]
    #[arg(
        long,
        value_name = "SECTION.KEY=VALUE,..",
        conflicts_with_all = ["resume", "overwrite", "seed"]
    )]
    pub(super) sweep: Vec<String>,
    /// With --sweep: seeds of every row
    #[arg(
        long,
        requires = "sweep",
        conflicts_with_all = ["resume", "overwrite", "seed"],
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    seeds: u16,
}

/// What a sweep is made with, from the flags of `train`.
pub(super) struct Sweeping<'a> {
    pub(super) args: &'a SweepArgs,
    pub(super) places: &'a PlaceArgs,
    /// The settings of all rows, but for what is varied.
    pub(super) config: RunConfig,
    /// What the flags say of them.
    pub(super) given: ConfigLayers,
    pub(super) root: PathBuf,
    pub(super) on_hangup: OnHangup,
    pub(super) plain: bool,
    pub(super) json: bool,
    pub(super) dry_run: bool,
}

/// A training or an evaluation of a sweep.
#[derive(Debug, Serialize)]
struct Piece {
    name: String,
    done: bool,
    /// What it takes by the estimate, done or not.
    seconds: f64,
}

/// The pieces of a sweep, a line for each, and what is open in all.
fn listed(pieces: &[Piece]) -> String {
    let line = |piece: &Piece| {
        let state = if piece.done { "done" } else { "open" };
        let Piece { name, seconds, .. } = piece;
        format!("{name}: {state}, about {}\n", clock(*seconds))
    };
    let open = pieces.iter().filter(|piece| !piece.done);
    let seconds: f64 = open.map(|piece| piece.seconds).sum();
    let lines: String = pieces.iter().map(line).collect();
    format!("{lines}About {} for what is open.", clock(seconds))
}

/// Trains and scores what is open, and prints the table.
pub(super) fn run(sweeping: Sweeping) -> Result<ExitCode> {
    let Sweeping { args, places, .. } = sweeping;
    let config = sweeping.config;
    let varied: Vec<Varied> = args
        .sweep
        .iter()
        .map(|text| Varied::read(text))
        .collect::<Result<_, _>>()?;
    // What the flags say first: a default among it goes before a row's preset, and a file of
    // settings would leave it out.
    let mut given = sweeping.given;
    given.text(&config.to_toml(), "the settings")?;
    for one in &varied {
        for value in &one.values {
            let mut row = ConfigLayers::default();
            row.set(&format!("{}={value}", one.key))?;
            row.refuse_ignored(&config.method.name, &given)?;
        }
    }
    // What the table decides.
    let decided = [
        "method.name",
        "method.variant",
        "data.dataset",
        "train.seed",
    ];
    let keys = varied.iter().map(|varied| &*varied.key);
    decided
        .into_iter()
        .chain(keys)
        .for_each(|key| given.forget_key(key));
    let known = |name: &str, known: Vec<&'static str>| {
        let found = known.into_iter().find(|known| *known == name);
        found.ok_or_else(|| wrong(format_args!("--sweep: {name} cannot be swept")))
    };
    let dataset = known(&config.data.dataset, data::dataset::names())?;
    let preset = known(config.method.title(), registry::method_presets())?;
    let options = Options {
        table: sweep::table(&varied, preset, dataset, &config.data.title())?,
        seeds: args.seeds.into(),
        methods: Vec::new(),
        on: Vec::new(),
        given,
        root: sweeping.root,
    };
    let device = places.device()?;
    let finder = places.finder(&options.model());
    let plan = Plan::new(&options, Some(&finder))?;
    for note in plan.notes.iter().chain(&plan.left_out) {
        tell(note);
    }
    if sweeping.dry_run {
        let mut estimates = Estimates::new(&finder, threads(), &options.root);
        let pieces: Vec<Piece> = Job::all(&plan)
            .into_iter()
            .map(|job| {
                Ok(Piece {
                    done: job.is_done(&options.root),
                    seconds: job.estimate(&mut estimates)?,
                    name: job.id(),
                })
            })
            .collect::<Result<_>>()?;
        match sweeping.json {
            true => print(serde_json::to_string_pretty(&pieces)?),
            false => print(listed(&pieces)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let work = Work {
        options: &options,
        plan: &plan,
        places,
        device: &device,
        finder,
        job: None,
        plain: sweeping.plain,
        on_hangup: sweeping.on_hangup,
    };
    let ended = work.carry_out()?;
    if let Ended::Stopped { .. } = ended {
        return exit_code(&ended);
    }
    let (folder, table) = table_files::write(&options, &plan, true)?;
    match sweeping.json {
        true => print(serde_json::to_string_pretty(&table)?),
        false => print(render::markdown(&table)),
    }
    tell(format_args!("Written to {}", folder.display()));
    exit_code(&ended)
}
