//! Adapters of others: peft, MixLoRA and this project's own, as safetensors and as `.bin`.

use std::path::Path;

use burn::prelude::*;
use model::exchange;
use model::{AdapterConfig, Llama, LoraConfig, MixLoraConfig, Placement, TargetModule};

use super::models::forward;
use super::{Files, files, fuzz};
use crate::support::{mixture, tiny_adapted, tiny_base};

const CONFIG: &str = "adapter_config.json";
const SAFE: &str = "adapter_model.safetensors";
const TORCH: &str = "adapter_model.bin";

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 4.0,
        target_modules: [TargetModule::QProj, TargetModule::DownProj].into(),
        ..LoraConfig::default()
    }
}

/// An adapter's files in both kinds, by what writes one kind.
fn both(adapter: &AdapterConfig, write: impl Fn(&Path, &Llama)) -> [Files; 2] {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &tiny_adapted(adapter, &Device::flex()));
    let (safe, torch) = (folder.join(SAFE), folder.join(TORCH));
    match safe.is_file() {
        true => {
            let tensors = crate::support::tensors(&safe).into_iter();
            let tensors =
                tensors.map(|(name, (shape, values))| (name, TensorData::new(values, shape)));
            exchange::torch::write(&torch, &tensors.collect()).unwrap();
        }
        false => {
            let tensors = exchange::torch::read(&torch).unwrap();
            let bytes: Vec<_> = tensors
                .iter()
                .map(|(name, data)| {
                    let values: Vec<u8> = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
                    (name, data.shape().as_slice().to_vec(), values)
                })
                .collect();
            let views = bytes.iter().map(|(name, shape, values)| {
                let kind = safetensors::Dtype::F32;
                (
                    *name,
                    safetensors::tensor::TensorView::new(kind, shape.clone(), values).unwrap(),
                )
            });
            safetensors::serialize_to_file(views, None, &safe).unwrap();
        }
    }
    [
        files(folder, &[CONFIG, SAFE]),
        files(folder, &[CONFIG, TORCH]),
    ]
}

/// Reads an adapter, puts it into the tiny model and asks that.
fn read(base: &Llama, folder: &Path) -> Result<(), String> {
    let adapter = exchange::read(folder).map_err(|e| e.to_string())?;
    let adapted = base.attach(&adapter.config, 1).map_err(|e| e.to_string())?;
    let adapted = adapted.with_adapter_tensors(&adapter.tensors);
    forward(&adapted.map_err(|e| e.to_string())?);
    Ok(())
}

#[test]
fn peft() {
    let lora = lora();
    let shape = model::load::tiny::config(8);
    let seeds = both(&AdapterConfig::Lora(lora.clone()), |folder, llama| {
        exchange::peft::write(folder, &lora, &llama.adapter_tensors(), "tiny", &shape).unwrap();
    });
    let base = tiny_base(&Device::flex());
    fuzz("peft", &seeds, &[], |folder| read(&base, folder));
}

#[test]
fn mixlora() {
    let mix = MixLoraConfig {
        lora: lora(),
        num_experts: 2,
        placement: Placement::Ffn,
        ..mixture()
    };
    let shape = model::load::tiny::config(8);
    let seeds = both(&AdapterConfig::MixLora(mix.clone()), |folder, llama| {
        let tensors = llama.adapter_tensors();
        exchange::mixlora::write(folder, &mix, &tensors, "tiny", &shape).unwrap();
    });
    let base = tiny_base(&Device::flex());
    fuzz("mixlora", &seeds, &[], |folder| read(&base, folder));
}

#[test]
fn own() {
    let config = AdapterConfig::MixLora(MixLoraConfig {
        lora: lora(),
        num_experts: 2,
        ..mixture()
    });
    let folder = tempfile::tempdir().unwrap();
    let tensors = tiny_adapted(&config, &Device::flex()).adapter_tensors();
    exchange::own::write(folder.path(), &config, &tensors, "tiny").unwrap();
    let seed = files(
        folder.path(),
        &["uq4ct_adapter.json", "uq4ct_adapter.safetensors"],
    );
    let base = tiny_base(&Device::flex());
    fuzz("own", &[seed], &[], |folder| read(&base, folder));
}
