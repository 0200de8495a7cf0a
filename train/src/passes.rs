//! How many tokens a pass may hold on a graphics card: as many as its free memory takes.
//!
//! A processor is at full speed with few tokens, and more only take memory. A card is not.

use burn::tensor::Device;
use model::ModelConfig;

use crate::card::free_memory;
use crate::estimate::PassMemory;

/// The share of the free memory that is planned with. The rest is the driver's, the allocator's
/// slack, and what lives for a moment.
const PLANNED: f64 = 0.8;

/// Tokens of a pass are a multiple of this, and not fewer.
const GRID: usize = 256;

/// No pass needs more tokens for full speed.
const MOST: usize = 32_768;

/// Bytes of a token that is asked: keys and values of all layers of a model of 13B parameters, for
/// written answers.
const ASKED: f64 = 2e6;

/// Tokens of a training pass that fit into so many free bytes beside the frozen weights, of
/// `weight_bytes` each.
pub fn trained(free: u64, model: &ModelConfig, weight_bytes: usize, memory: PassMemory) -> usize {
    let weights = (model.base_parameters() * weight_bytes) as f64;
    let room = PLANNED * free as f64 - weights - memory.fixed;
    on_grid(room / memory.per_token)
}

/// Tokens of a pass that asks on a device: what is set, or more where its card has room. With what
/// is set it never is less.
pub fn asked(set: usize, device: &Device) -> usize {
    match free_memory(device) {
        Some(free) => on_grid(PLANNED * free as f64 / ASKED).max(set),
        None => set,
    }
}

fn on_grid(tokens: f64) -> usize {
    (tokens as usize / GRID * GRID).clamp(GRID, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let tokens = trained(free, &model, 2, memory);
            assert!(tokens >= last && tokens.is_multiple_of(GRID));
            let needed = weights + memory.fixed + tokens as f64 * memory.per_token;
            assert!(tokens == GRID || needed <= free as f64);
            last = tokens;
        }
        assert!(last > 8_000, "{last}");
        assert_eq!(trained(0, &model, 2, memory), GRID);
        assert_eq!(trained(u64::MAX, &model, 2, memory), MOST);
        assert_eq!(asked(777, &Device::flex()), 777);
    }
}
