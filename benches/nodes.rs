//! Every operation with a backward pass of its own, forward and backward, on a device beside the
//! composed form on the processor: a line of JSON each. Ends with 1 where one is off.
//!
//! `cargo bench --profile dev --bench nodes -- --device cuda`

use std::process::ExitCode;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::{DType, Distribution, FloatDType};
use clap::Parser;
use model::dropout::{DropoutSeed, Mask, TokenKeys};
use model::fused::activation::{Activation, Origin};
use model::fused::adapted_linear::adapted_linear;
use model::fused::attention::rotary_attention;
use model::fused::linear::linear;
use model::fused::log_likelihood::log_likelihood;
use model::fused::low_rank::{Mixture, add_low_rank};
use model::fused::rms_norm::rms_norm;
use model::fused::route::route;
use model::fused::swiglu::swiglu;
use model::fused::{Form, in_form};
use model::rope::Angles;
use model::visibility::{AttentionKind, Heads, Visibility};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

/// Experts of a mixture, of which the last is chosen by nobody; experts of a token; their rank.
const EXPERTS: [usize; 3] = [4, 2, 5];
/// Width, inner width and vocabulary: no multiples of anything.
const WIDTHS: [usize; 3] = [72, 130, 517];
/// Heads of queries and of keys, and their width.
const HEADS: [usize; 3] = [6, 2, 12];

#[derive(Parser)]
struct Options {
    /// As `train --device` takes it.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Rows of every operation.
    #[arg(long, value_delimiter = ',', default_value = "1,37,512,1000")]
    rows: Vec<usize>,
    /// Largest difference in f32, as a share of the largest value.
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// Named by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An operation on matrices: which it takes, the last of them frozen where `frozen` says so, and
/// how it is applied.
struct Node {
    name: &'static str,
    inputs: fn(usize) -> Vec<[usize; 2]>,
    apply: fn(&[Tensor<2>]) -> Tensor<2>,
}

const NODES: [Node; 8] = [
    Node {
        name: "rms_norm",
        inputs: |n| vec![[n, WIDTHS[0]]],
        apply: |x| rms_norm(x[0].clone(), gain(&x[0]), 1e-5),
    },
    Node {
        name: "swiglu",
        inputs: |n| vec![[n, WIDTHS[1]], [n, WIDTHS[1]]],
        apply: |x| swiglu(x[0].clone(), x[1].clone()),
    },
    Node {
        name: "linear",
        inputs: |n| vec![[n, WIDTHS[0]]],
        apply: |x| linear(x[0].clone(), frozen(&x[0], WIDTHS[1], DType::F32)),
    },
    Node {
        name: "add_low_rank",
        inputs: |n| [vec![[n, WIDTHS[1]], [n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: |x| add_low_rank(x[0].clone(), x[1].clone(), mixture(&x[2..])),
    },
    Node {
        name: "adapted_linear",
        inputs: |n| [vec![[n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: |x| {
            let weight = frozen(&x[0], WIDTHS[1], DType::F32);
            adapted_linear(normed(&x[0]), weight, mixture(&x[1..]))
        },
    },
    Node {
        name: "adapted_linear_bf16",
        inputs: |n| [vec![[n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: |x| {
            let weight = frozen(&x[0], WIDTHS[1], DType::BF16);
            adapted_linear(normed(&x[0]), weight, mixture(&x[1..]))
        },
    },
    Node {
        name: "route",
        inputs: |n| vec![[n, WIDTHS[0]], [WIDTHS[0], EXPERTS[0]]],
        apply: |x| route(normed(&x[0]), x[1].clone()),
    },
    Node {
        name: "log_likelihood",
        inputs: |n| vec![[n, WIDTHS[2]]],
        apply: |x| {
            let n = x[0].dims()[0] as i64;
            let rows = Tensor::arange(0..n, &x[0].device());
            let tokens = (rows.clone() * 7).remainder_scalar(WIDTHS[2] as i64);
            log_likelihood(x[0].clone() * 9.0, rows, tokens).unsqueeze()
        },
    },
];

/// [`rotary_attention`], whose width follows from its heads: two rows, the second padded.
const ATTENTION: Node = Node {
    name: "attention",
    inputs: |n| {
        let [queries, keys, width] = HEADS;
        vec![
            [2 * n, queries * width],
            [2 * n, keys * width],
            [2 * n, keys * width],
        ]
    },
    apply: |x| {
        let [queries, keys, width] = HEADS;
        let (tokens, device) = (x[0].dims()[0], x[0].device());
        let n = tokens as i64 / 2;
        let place = Tensor::<1, Int>::arange(0..2 * n, &device).remainder_scalar(n);
        let row = |t: Tensor<1, Int>| t.reshape([2, n as usize]);
        let real = row(Tensor::<1, Int>::arange(0..2 * n, &device))
            .lower_elem(2 * n - n / 3)
            .int();
        let heads = Heads {
            queries,
            keys,
            window: None,
            soft_cap: None,
            attention: AttentionKind::Exact,
        };
        let visibility = Visibility::new(real.clone(), real.zeros_like(), row(place.clone()))
            .with_masks(std::iter::once(heads));
        let angle = place.float().reshape([tokens, 1])
            * (Tensor::<1, Int>::arange(0..width as i64 / 2, &device).float() + 1.0)
                .recip()
                .unsqueeze();
        let angles = Angles {
            cos: angle.clone().cos(),
            sin: angle.sin(),
        };
        let y = rotary_attention(
            [x[0].clone(), x[1].clone(), x[2].clone()],
            &angles,
            &visibility,
            heads,
        );
        // What comes out at padding means nothing.
        y * real.float().reshape([tokens, 1])
    },
};

fn gain(x: &Tensor<2>) -> Tensor<1> {
    Tensor::<1, Int>::arange(1..x.dims()[1] as i64 + 1, &x.device()).float() / 40.0
}

/// A frozen weight for x, the same on every device.
fn frozen(x: &Tensor<2>, out: usize, kind: DType) -> Tensor<2> {
    let (width, device) = (x.dims()[1], x.device().without_autodiff());
    let values = Tensor::<1, Int>::arange(0..(out * width) as i64, &device).float();
    let weight = (values * 0.618).sin() / (width as f64).sqrt();
    weight.reshape([out, width]).cast(kind)
}

/// An input that the backward pass can compute again.
fn normed(x: &Tensor<2>) -> Activation {
    Activation {
        value: rms_norm(x.clone(), gain(x), 1e-5),
        origin: Origin::RmsNorm {
            x: x.clone(),
            gain: gain(x),
            eps: 1e-5,
        },
    }
}

/// A and B of all experts, and each row's weights.
fn mixture_shapes(n: usize) -> Vec<[usize; 2]> {
    let [experts, top_k, rank] = EXPERTS;
    vec![
        [experts * WIDTHS[0], rank],
        [experts * rank, WIDTHS[1]],
        [n, top_k],
    ]
}

fn mixture(x: &[Tensor<2>]) -> Mixture {
    let [experts, top_k, rank] = EXPERTS;
    let n = x[2].dims()[0];
    let slots = Tensor::<1, Int>::arange(0..(n * top_k) as i64, &x[2].device());
    let place = Tensor::<1, Int>::arange(0..n as i64, &x[2].device()).unsqueeze::<2>();
    let (one, zero) = (place.ones_like(), place.zeros_like());
    let keys = TokenKeys::new(place.clone(), place, one, zero);
    let row = slots.clone() / top_k as i64;
    let chosen = (row * 7 + slots.remainder_scalar(top_k as i64)).remainder_scalar(3);
    Mixture {
        a: x[0].clone().reshape([experts, WIDTHS[0], rank]),
        b: x[1].clone().reshape([experts, rank, WIDTHS[1]]),
        experts: chosen.reshape([n, top_k]),
        weights: x[2].clone(),
        dropout: Mask::new(0.2, DropoutSeed::new(9), &keys),
    }
}

/// The value and every gradient of a node on a device.
fn run(node: &Node, inputs: &[TensorData], device: &Device) -> Vec<Vec<f64>> {
    let device = device.clone().autodiff();
    let leaves: Vec<Tensor<2>> = inputs
        .iter()
        .map(|data| Tensor::from_data(data.clone(), &device).require_grad())
        .collect();
    let y = (node.apply)(&leaves);
    let [rows, columns] = y.dims();
    let upstream = Tensor::<1, Int>::arange(0..(rows * columns) as i64, &device).float();
    let upstream = (upstream * 0.37).sin().reshape([rows, columns]);
    let grads = (y.clone() * upstream).sum().backward();
    let values = |t: Tensor<2>| t.cast(DType::F32).into_data().try_into_vec_as().unwrap();
    let mut found = vec![values(y.without_autodiff())];
    found.extend(leaves.iter().map(|leaf| values(leaf.grad(&grads).unwrap())));
    found
}

/// The largest difference, as a share of the largest value, or of a thousandth where all are
/// smaller: a gradient that is 0 has no size. Infinite where one is no number.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
    let pairs = found.iter().zip(expected);
    let worst = pairs.map(|(a, b)| match (a - b).abs() {
        d if d.is_nan() => f64::INFINITY,
        d => d,
    });
    worst.fold(0.0, f64::max) / scale
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = Options::parse();
    let device = uq4ct::backend::find(&options.device)?.device;
    let host = Device::flex();
    host.seed(1);
    let mut all_right = true;
    for node in NODES.iter().chain([&ATTENTION]) {
        let bf16 = node.name.ends_with("bf16");
        if bf16 && !device.supports_dtype(FloatDType::BF16) {
            println!(
                "{}",
                json!({ "stage": "nodes", "node": node.name, "skipped": "no bf16" })
            );
            continue;
        }
        for rows in &options.rows {
            let draw = |shape| {
                Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &host).into_data()
            };
            let inputs: Vec<TensorData> = (node.inputs)(*rows).into_iter().map(draw).collect();
            let expected = in_form(Form::Composed, || run(node, &inputs, &host));
            for form in [Form::Lean, Form::Composed] {
                let start = Instant::now();
                let found = in_form(form, || run(node, &inputs, &device));
                let seconds = start.elapsed().as_secs_f64();
                let pairs = found.iter().zip(&expected);
                let off = pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max);
                // Eight bits of a weight.
                let right = off <= if bf16 { 2e-2 } else { options.tolerance };
                all_right &= right;
                println!(
                    "{}",
                    json!({
                        "stage": "nodes",
                        "node": node.name,
                        "rows": rows,
                        "form": format!("{form:?}").to_lowercase(),
                        "difference": off,
                        "right": right,
                        "first_seconds": seconds,
                    })
                );
            }
        }
    }
    Ok(match all_right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
