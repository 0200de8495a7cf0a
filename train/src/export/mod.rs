//! A finished run's adapter for others, with what its confidence needs beside it.
//!
//! | module | content |
//! |---|---|
//! | this file | writing an adapter in a format, and reading it again |
//! | [`card`] | `uq.json`: what others need to use the adapter's confidence |
//! | `model_files` | the files of a merged model beside its weights |
//! | [`start`] | an adapter on disk as the start of a training |

use std::path::{Path, PathBuf};

use burn::prelude::*;
use model::exchange::{self, Tensors, merged, mixlora, own, peft};
use model::{AdapterConfig, DropoutSeed, Llama, LlamaInput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{RunConfig, WeightType};
use crate::context::Setup;
use crate::error::TrainError;
use crate::fitted::{LoadedRun, members};
use crate::prepare::{Prepared, prepare_model};
use crate::registry;
use crate::run_directory::RunDirectory;

pub mod card;
mod model_files;
pub mod start;

use card::{CARD, Card, base_name};

/// The form in which an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// LoRA and its variants for Hugging Face's `peft`.
    Peft,
    /// Placement `ffn` for the public MixLoRA code.
    MixLora,
    /// LoRA added to the base model, as a whole model, in f32 or in the base's own type.
    Merged {
        /// The base's type, which may be 16 bits.
        keep_type: bool,
    },
    /// Any adapter, in this project's own format.
    Own,
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The directories written, one a member.
    pub directories: Vec<PathBuf>,
    /// Largest difference of a logit after reading the files again, relative to the largest logit.
    /// Absent if that was not asked for.
    pub difference: Option<f64>,
}

/// Writes the adapter of the run in `setup.run` below `out`.
///
/// # Errors
/// A run that has not finished, an adapter that the format cannot hold, or files that cannot be
/// written. With `verify`, logits that differ by more than 1e-4 of the largest (5e-2 where a
/// merged model is kept or asked in 16 bits).
pub fn export(
    setup: &Setup,
    format: Format,
    out: &Path,
    verify: bool,
) -> Result<Exported, TrainError> {
    let (directory, config) = RunDirectory::open(&setup.run)?;
    suits(&registry::build(&config)?.adapter(), format)?;
    let prepared = prepare_model(&config, &setup.finder)?;
    if format == Format::MixLora {
        let known = mixlora::knows(&prepared.model);
        known.map_err(|e| TrainError::config("--format", e.to_string()))?;
    }
    let positions = prepared.most_positions();
    let members = members(&config, &directory, &prepared)?;
    let mut run = LoadedRun::open(&config, setup, prepared, positions, &members)?;
    let card = Card::of(&directory, &run)?;
    let mut exported = Exported {
        directories: Vec::new(),
        difference: None,
    };
    for (number, member) in run.members.iter().enumerate() {
        let to = match run.members.len() {
            1 => out.to_path_buf(),
            _ => out.join(format!("member-{}", number + 1)),
        };
        std::fs::create_dir_all(&to).map_err(|e| TrainError::file(&to, e))?;
        let tensors = member.adapter_tensors();
        let adapter = run.method.adapter();
        write(&to, format, &adapter, &tensors, &config, &mut run.prepared)?;
        let target = RunDirectory::at(&to);
        target.write_json(CARD, &card.beside(&to)?)?;
        // Last: it says that the export is whole.
        let names = card::files(&to)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        target.digests().list(&names)?;
        if verify {
            let again = read_again(&to, format, &config, &run.base, setup)?;
            let found = difference(member, &again, setup);
            let most = tolerance(format, &config, &mut run.prepared);
            if found > most || found.is_nan() {
                let reason = format!(
                    "read again, its logits differ by {found:.1e} of the largest: more than {most:.0e}"
                );
                return Err(TrainError::file(&to, reason));
            }
            exported.difference = Some(exported.difference.unwrap_or(0.0).max(found));
        }
        exported.directories.push(to);
    }
    Ok(exported)
}

/// How far logits may differ after reading an export again, relative to the largest.
fn tolerance(format: Format, config: &RunConfig, prepared: &mut Prepared) -> f64 {
    // Merged weights are rounded to their type, a LoRA beside them is not.
    let rounded = match format {
        Format::Merged { keep_type } => {
            config.model.dtype == WeightType::Bf16 || (keep_type && !model_files::is_f32(prepared))
        }
        _ => false,
    };
    match rounded {
        true => 5e-2,
        false => 1e-4,
    }
}

/// Whether a format can hold an adapter.
fn suits(adapter: &AdapterConfig, format: Format) -> Result<(), TrainError> {
    let refuse = |reason: &str| Err(TrainError::config("--format", reason));
    match (adapter, format) {
        (AdapterConfig::None, _) => {
            refuse("the run trained nothing: there is no adapter to export")
        }
        (AdapterConfig::MixLora(_), Format::Peft | Format::Merged { .. }) => refuse(
            "the run's adapter is a mixture of experts, which a router chooses by token: use uq4ct, or mixlora with adapter.placement = ffn",
        ),
        (AdapterConfig::Lora(lora), Format::Peft | Format::Merged { .. })
            if lora.posterior_std.is_some() =>
        {
            refuse("the run's A is random, and its spread has no place in this format: use uq4ct")
        }
        (AdapterConfig::Lora(_), Format::MixLora) => {
            refuse("the run's adapter is a plain LoRA: use peft")
        }
        (AdapterConfig::MixLora(mix), Format::MixLora) => {
            mixlora::serves(mix).map_err(|e| TrainError::config("--format", e.to_string()))
        }
        _ => Ok(()),
    }
}

fn write(
    directory: &Path,
    format: Format,
    adapter: &AdapterConfig,
    tensors: &Tensors,
    config: &RunConfig,
    prepared: &mut Prepared,
) -> Result<(), TrainError> {
    let base = base_name(config);
    match (adapter, format) {
        (AdapterConfig::Lora(lora), Format::Peft) => {
            peft::write(directory, lora, tensors, &base, &prepared.model)?;
        }
        (AdapterConfig::Lora(lora), Format::Merged { keep_type }) => {
            model_files::write(prepared, directory, keep_type)?;
            let shape = prepared.model.clone();
            merged::write(
                directory,
                &shape,
                prepared.weights(),
                lora,
                tensors,
                keep_type,
            )?;
        }
        (AdapterConfig::MixLora(mix), Format::MixLora) => {
            mixlora::write(directory, mix, tensors, &base, &prepared.model)?;
        }
        _ => own::write(directory, adapter, tensors, &base)?,
    }
    Ok(())
}

/// Reads an export as a model again.
fn read_again(
    directory: &Path,
    format: Format,
    config: &RunConfig,
    base: &Llama,
    setup: &Setup,
) -> Result<Llama, TrainError> {
    if !matches!(format, Format::Merged { .. }) {
        let adapter = exchange::read(directory)?;
        return Ok(base
            .attach_blank(&adapter.config)?
            .with_adapter_tensors(&adapter.tensors)?);
    }
    let mut other = config.clone();
    other.model.name = directory.display().to_string();
    let mut prepared = prepare_model(&other, &setup.finder)?;
    let positions = prepared.most_positions();
    prepared.load_for(&other, positions, &setup.device)
}

/// Largest difference of a logit over seeded token sequences, relative to the largest logit.
fn difference(one: &Llama, other: &Llama, setup: &Setup) -> f64 {
    const ROWS: usize = 4;
    const LENGTH: usize = 32;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let vocabulary = one.vocabulary() as i64;
    let tokens: Vec<i64> = (0..ROWS * LENGTH)
        .map(|_| rng.random_range(0..vocabulary))
        .collect();
    let device = &setup.device;
    let positions: Vec<i64> = (0..ROWS * LENGTH).map(|i| (i % LENGTH) as i64).collect();
    let grid = |values: Vec<i64>| {
        Tensor::<2, Int>::from_data(TensorData::new(values, [ROWS, LENGTH]), device)
    };
    let input = LlamaInput {
        tokens: grid(tokens),
        positions: grid(positions),
        segments: Tensor::ones([ROWS, LENGTH], device),
        branches: Tensor::zeros([ROWS, LENGTH], device),
        scored: Tensor::arange(0..(ROWS * LENGTH) as i64, device),
        dropout: DropoutSeed::OFF,
        probe: None,
        routers_apart: false,
    };
    let (a, b) = (one.forward(&input).logits, other.forward(&input).logits);
    let largest = |t: Tensor<2>| f64::from(t.abs().max().into_scalar::<f32>());
    largest(a.clone() - b) / largest(a).max(1e-30)
}
