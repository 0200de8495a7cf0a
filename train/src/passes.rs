//! How many tokens a pass may hold on a graphics card: as many as its free memory takes.
//!
//! A processor is at full speed with few tokens, and more only take memory. A card is not.

use burn::tensor::Device;
use model::ModelConfig;

use crate::card::free_memory;
use crate::estimate::PassMemory;

/// The share of the free memory that is planned with. The rest is the driver's and the allocator's
/// slack.
const PLANNED: f64 = 0.85;

/// Tokens of a pass are a multiple of this, and not fewer.
const GRID: usize = 256;

/// No pass needs more tokens for full speed.
const MOST: usize = 32_768;

/// Bytes of a token that is asked: keys and values of all layers of a model of 13B parameters, for
/// written answers.
const ASKED: f64 = 2e6;

/// A training pass, as large as memory takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitting {
    /// Tokens of the pass; the smallest pass where none fits.
    pub tokens: usize,
    /// Whether the smallest pass fits.
    pub fits: bool,
}

/// The training pass that fits into so many free bytes beside the frozen weights, of
/// `weight_bytes` each.
pub fn trained(free: u64, model: &ModelConfig, weight_bytes: usize, memory: PassMemory) -> Fitting {
    let weights = (model.base_parameters() * weight_bytes) as f64;
    let tokens = (PLANNED * free as f64 - weights - memory.fixed) / memory.per_token;
    Fitting {
        tokens: on_grid(tokens),
        fits: tokens >= GRID as f64,
    }
}

/// Tokens of a pass that asks on a device: what is set, or more where its card has room beside
/// `to_come` bytes that are not yet there. With what is set it never is less.
pub fn asked(set: usize, device: &Device, to_come: u64) -> usize {
    match free_memory(device) {
        Some(free) => on_grid(PLANNED * free.saturating_sub(to_come) as f64 / ASKED).max(set),
        None => set,
    }
}

fn on_grid(tokens: f64) -> usize {
    (tokens as usize / GRID * GRID).clamp(GRID, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::Kept;
    use model::load::tiny;

    #[test]
    fn more_memory_takes_more_tokens_and_what_is_planned_fits() {
        let model = tiny::config(300);
        let memory = PassMemory {
            fixed: 1e9,
            per_token: 6e6,
        };
        let weights = model.base_parameters() as f64 * 2.0;
        let mut last = 0;
        for free in [2_u64, 8, 24, 80].map(|gib| gib << 30) {
            let Fitting { tokens, fits } = trained(free, &model, 2, memory);
            assert!(tokens >= last && tokens.is_multiple_of(GRID));
            let needed = weights + memory.fixed + tokens as f64 * memory.per_token;
            assert_eq!(needed <= PLANNED * free as f64, fits);
            last = tokens;
        }
        assert!(last > 8_000, "{last}");
        let none = Fitting {
            tokens: GRID,
            fits: false,
        };
        assert_eq!(trained(0, &model, 2, memory), none);
        assert_eq!(trained(u64::MAX, &model, 2, memory).tokens, MOST);
        assert_eq!(asked(777, &Device::flex(), 0), 777);
    }

    /// The table of `docs/performance.md`: LLaMA-2-7B in bf16 with UQ4CT, rows of 512 tokens.
    #[test]
    fn passes_of_a_7b_model_are_as_documented() {
        let model = ModelConfig {
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            sliding_window: vec![None; 32],
            tie_word_embeddings: false,
            ..tiny::config(32_000)
        };
        let mut layers = crate::config::ConfigLayers::default();
        layers.method("uq4ct").unwrap();
        let config = layers.resolve().unwrap();
        let adapter = crate::registry::build(&config).unwrap().adapter();
        let rows = [false, true].map(|recompute| {
            let kept = Kept {
                grouped: false,
                recompute,
                half: true,
            };
            let memory = PassMemory::new(&model, &adapter, 16, 512, kept);
            let passes = [24_u64, 48, 80].map(|gib| trained(gib << 30, &model, 2, memory));
            (memory, passes)
        });
        let table = rows.map(|(memory, passes)| {
            let cell = |pass: Fitting| match pass.fits {
                true => pass.tokens.to_string(),
                false => "none".to_owned(),
            };
            let [a, b, c] = passes.map(cell);
            format!("{:.1} MB a token | {a} | {b} | {c}", memory.per_token / 1e6)
        });
        let weights = (model.base_parameters() * 2) as f64 / 1e9;
        assert_eq!(format!("{weights:.1} GB"), "13.5 GB");
        assert_eq!(format!("{:.1} GB", rows[0].0.fixed / 1e9), "6.4 GB");
        assert_eq!(
            table,
            [
                "3.9 MB a token | 256 | 6144 | 13568",
                "0.9 MB a token | 2048 | 26368 | 32768",
            ]
        );
    }
}
