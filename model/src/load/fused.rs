//! Matrices that files hold as one: q, k and v, and gate and up.

use std::ops::Range;

use burn::tensor::TensorData;

use super::Weights;
use crate::config::ModelConfig;
use crate::error::ModelError;

/// A source whose layers hold `qkv_proj` and `gate_up_proj`, read as if each projection stood by
/// itself.
pub(super) struct Fused<W> {
    inner: W,
    /// Rows of q; of k, and of v; of gate, and of up.
    rows: [usize; 3],
}

impl<W> Fused<W> {
    /// The source of a model's weights.
    pub(super) fn new(inner: W, config: &ModelConfig) -> Self {
        Self {
            inner,
            rows: [
                config.num_attention_heads * config.head_dim,
                config.num_key_value_heads * config.head_dim,
                config.intermediate_size,
            ],
        }
    }

    /// The matrix that holds a projection, its rows there, and how many rows it has in all.
    fn place(&self, name: &str) -> Option<(String, Range<usize>, usize)> {
        let [q, kv, f] = self.rows;
        let (qkv, gate_up) = ("qkv_proj", "gate_up_proj");
        [
            ("q_proj", qkv, 0..q, q + 2 * kv),
            ("k_proj", qkv, q..q + kv, q + 2 * kv),
            ("v_proj", qkv, q + kv..q + 2 * kv, q + 2 * kv),
            ("gate_proj", gate_up, 0..f, 2 * f),
            ("up_proj", gate_up, f..2 * f, 2 * f),
        ]
        .into_iter()
        .find(|(part, ..)| name.rsplit('.').nth(1) == Some(part))
        .map(|(part, whole, rows, all)| (name.replace(part, whole), rows, all))
    }
}

impl<W: Weights> Weights for Fused<W> {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let Some((whole, rows, all)) = self.place(name) else {
            return self.inner.tensor(name);
        };
        let data = self.inner.tensor(&whole)?;
        let mut shape: Vec<usize> = data.shape().as_slice().to_vec();
        if shape.first() != Some(&all) {
            let mut expected = vec![all];
            expected.extend(shape.iter().skip(1));
            return Err(ModelError::Shape {
                name: whole,
                found: shape,
                expected,
            });
        }
        let bytes = data.as_bytes();
        let row = bytes.len() / all;
        let part = bytes[rows.start * row..rows.end * row].to_vec();
        shape[0] = rows.len();
        Ok(TensorData::from_bytes_vec(part, shape, data.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights that hold one tensor under every name.
    struct One(TensorData);

    impl Weights for One {
        fn tensor(&mut self, _: &str) -> Result<TensorData, ModelError> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn a_matrix_of_other_rows_or_none_is_refused() {
        for shape in [vec![], vec![5, 2]] {
            let values = vec![0f32; shape.iter().product()];
            let mut fused = Fused {
                inner: One(TensorData::new(values, shape.clone())),
                rows: [2, 1, 3],
            };
            let name = "model.layers.0.self_attn.k_proj.weight";
            let Err(ModelError::Shape {
                found, expected, ..
            }) = fused.tensor(name)
            else {
                panic!("{shape:?}");
            };
            assert_eq!(found, shape);
            assert_eq!(expected[0], 4);
        }
    }
}
