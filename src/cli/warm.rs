//! `uq4ct warm`: what a graphics card has to compile and tune for a training, ahead of it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use train::card::free_memory;
use train::config::ConfigLayers;
use train::dashboard::state::clock;
use train::prepare::prepare_model;
use train::warm::{lengths, warm};

use super::flags::{self, PlaceArgs};
use super::process::{logging, print, tell};
use super::usage::wrong;
use crate::backend::NamedDevice;
use crate::kernels::Made;

/// Flags of `warm`.
#[derive(Debug, Args)]
pub(super) struct WarmArgs {
    /// Short name, owner/name on the Hub, directory, .gguf file, or tiny
    #[arg(long, value_parser = flags::model)]
    model: String,
    /// The method that will train
    #[arg(long, default_value = "uq4ct", value_parser = flags::method)]
    method: String,
    /// Tokens of the longest question
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    longest: usize,
    /// Settings of the training, to lay over the presets; may be repeated
    #[arg(long, value_name = "FILE")]
    config: Vec<std::path::PathBuf>,
    /// A single setting of the training, such as data.scoring=cloze; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Run it even on the processor, which has nothing to compile
    #[arg(hide_short_help = true, long)]
    force: bool,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Runs `warm`.
pub(super) fn run(args: &WarmArgs) -> Result<ExitCode> {
    logging();
    let device = args.places.device()?;
    if device.is_cpu() && !args.force {
        return Err(wrong(format_args!(
            "--device {}: a processor compiles nothing; this is for graphics cards, such as --device cuda",
            device.name
        )));
    }
    let mut layers = ConfigLayers::default();
    layers.method(&args.method)?;
    for file in &args.config {
        layers.file(file)?;
    }
    layers.set_text("model.name", &args.model)?;
    for assignment in &args.set {
        layers.set(assignment)?;
    }
    let given = layers.has("train.micro_tokens");
    let mut config = layers.resolve()?.anchored();
    let prepared = prepare_model(&config, &args.places.finder(&args.model))?;
    let longest = args.longest.min(prepared.model.max_position_embeddings - 1);
    if let Some(free) = free_memory(&device.device).filter(|_| !given) {
        config.train.micro_tokens = prepared.pass_tokens(&config, free, longest)?.tokens;
    }
    let lengths = lengths(longest, &device.device);
    let (began, before) = (Instant::now(), Made::so_far());
    let mut known = before;
    let mut done = 0;
    warm(
        &config,
        &prepared.model,
        &lengths,
        &device.device,
        |length| {
            let now = Made::settled();
            if done > 0 {
                tell(format_args!("{}", now - known));
            }
            done += 1;
            known = now;
            tell(format_args!(
                "questions of {length} tokens ({done} of {}) ..",
                lengths.len()
            ));
        },
    )?;
    let now = Made::settled();
    tell(format_args!("{}", now - known));
    print(format_args!(
        "{} in {}{}",
        now - before,
        clock(began.elapsed().as_secs_f64()),
        kept(&device)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Where the next process finds it.
#[cfg(feature = "cuda")]
fn kept(device: &NamedDevice) -> String {
    match device.name.starts_with("cuda") {
        true => format!(", kept in {}", crate::kernels::place().display()),
        false => AGAIN.into(),
    }
}

#[cfg(not(feature = "cuda"))]
fn kept(_: &NamedDevice) -> String {
    AGAIN.into()
}

/// What other devices keep.
const AGAIN: &str = ", which the next process makes again: only CUDA keeps them";
