//! Weights of several types in the files of one model.

use burn::tensor::{DType, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::language_part::logits;
use crate::support::fixture;
use crate::support::programs::json;

/// A weight in the type of its turn, and the same values in f32.
fn rounded(values: Vec<f32>, shape: Vec<usize>, turn: usize) -> [(Dtype, Vec<u8>); 2] {
    let (kind, dtype) = [
        (DType::F32, Dtype::F32),
        (DType::F16, Dtype::F16),
        (DType::BF16, Dtype::BF16),
    ][turn % 3];
    let data = TensorData::new(values, shape).convert_dtype(kind);
    let bytes = |data: &TensorData| data.as_bytes().to_vec();
    [
        (dtype, bytes(&data)),
        (Dtype::F32, bytes(&data.convert::<f32>())),
    ]
}

#[test]
fn f32_f16_and_bf16_stand_beside_each_other() {
    for family in ["qwen3", "phi3", "gemma3_vision"] {
        let from = fixture("families").join(family);
        let settings = json(&from.join("config.json"));
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let weights: Vec<_> = file.tensors();
        let both: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(turn, (_, view))| {
                let values = view.data().chunks_exact(4);
                let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                rounded(values.collect(), view.shape().to_vec(), turn)
            })
            .collect();
        let [mixed, plain] = [0, 1].map(|which| {
            let folder = tempfile::tempdir().unwrap();
            let views = weights.iter().zip(&both).map(|((name, view), both)| {
                let (dtype, bytes) = &both[which];
                let view = TensorView::new(*dtype, view.shape().to_vec(), bytes).unwrap();
                (name.clone(), view)
            });
            let path = folder.path().join("model.safetensors");
            safetensors::serialize_to_file(views, None, &path).unwrap();
            logits(folder.path(), &settings).unwrap()
        });
        assert_eq!(mixed, plain, "{family}");
    }
}
