//! The fused operations beside their composed forms, forward and backward, at SmolLM2-135M's sizes
//! and 512 tokens.
//!
//! `cargo bench --profile dev --bench kernels`

use burn::prelude::*;
use burn::tensor::Distribution;
use criterion::{Criterion, criterion_group, criterion_main};
use model::fused::{attention, linear, low_rank, rms_norm, swiglu};
use model::rope::Angles;
use model::visibility::{AttentionKind, Heads, Visibility};

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

const TOKENS: usize = 512;
const WIDTH: usize = 576;
const INNER: usize = 1536;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Default, &Device::flex())
}

fn leaf<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).autodiff().require_grad()
}

/// Forward and backward of both forms.
fn pair(
    c: &mut Criterion,
    name: &str,
    fused: impl Fn() -> Tensor<2>,
    composed: impl Fn() -> Tensor<2>,
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.bench_function("fused", |b| b.iter(|| fused().sum().backward()));
    group.bench_function("composed", |b| b.iter(|| composed().sum().backward()));
    group.finish();
}

fn operations(c: &mut Criterion) {
    uq4ct::allocator::keep_pages();
    let (x, gain) = (leaf([TOKENS, WIDTH]), random([WIDTH]));
    pair(
        c,
        "rms_norm",
        || rms_norm::rms_norm(x.clone(), gain.clone(), 1e-5),
        || rms_norm::composed(x.clone(), gain.clone(), 1e-5),
    );
    let weight = random([INNER, WIDTH]);
    pair(
        c,
        "linear",
        || linear::linear(x.clone(), weight.clone()),
        || linear::composed(x.clone(), weight.clone()),
    );
    let (gate, up) = (leaf([TOKENS, INNER]), leaf([TOKENS, INNER]));
    pair(
        c,
        "swiglu",
        || swiglu::swiglu(gate.clone(), up.clone()),
        || swiglu::composed(gate.clone(), up.clone()),
    );
}

fn mixture(c: &mut Criterion) {
    for experts in [8, 64] {
        let x = leaf([TOKENS, WIDTH]);
        let (a, b) = (leaf([experts, WIDTH, 16]), leaf([experts, 16, INNER]));
        let weight = leaf([TOKENS, 2]);
        let chosen: Vec<i64> = (0..2 * TOKENS)
            .map(|i| ((i / 2 * 7 + i % 2) % experts) as i64)
            .collect();
        let chosen = TensorData::new(chosen, [TOKENS, 2]);
        let index = Tensor::<2, Int>::from_data(chosen, &Device::flex());
        let base = random([TOKENS, INNER]);
        let mixture = || low_rank::Mixture {
            a: a.clone(),
            b: b.clone(),
            experts: index.clone(),
            weights: weight.clone(),
            dropout: None,
        };
        pair(
            c,
            &format!("low_rank_{experts}_experts"),
            || low_rank::add_low_rank(base.clone(), x.clone(), mixture()),
            || low_rank::composed(base.clone(), x.clone(), mixture()),
        );
    }
}

fn attending(c: &mut Criterion) {
    let heads = Heads {
        queries: 9,
        keys: 3,
        window: None,
        soft_cap: None,
        attention: AttentionKind::Exact,
    };
    let int = |value: i64| Tensor::<2, Int>::full([4, TOKENS / 4], value, &Device::flex());
    let visibility = Visibility::new(int(1), int(0), int(0));
    let visibility = visibility.with_masks(std::iter::once(heads));
    let angle = random([TOKENS, 32]);
    let angles = Angles {
        cos: angle.clone().cos(),
        sin: angle.sin(),
    };
    let (q, k, v) = (
        leaf([TOKENS, 576]),
        leaf([TOKENS, 192]),
        leaf([TOKENS, 192]),
    );
    let inputs = || [q.clone(), k.clone(), v.clone()];
    pair(
        c,
        "attention",
        || attention::rotary_attention(inputs(), &angles, &visibility, heads),
        || attention::composed(inputs(), &angles, &visibility, heads),
    );
}

criterion_group!(kernels, operations, mixture, attending);
criterion_main!(kernels);
