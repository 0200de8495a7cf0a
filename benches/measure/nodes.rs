//! Every operation with a backward pass of its own, and the steps of the optimizer, on a device
//! beside the composed form on the processor: value and gradients, a line of JSON each. Once more
//! with an input whose strides are those of a transposed one. Ends with 1 where one is off.
//!
//! `cargo bench --profile dev --bench nodes -- --device cuda`

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Param;
use burn::optim::{GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
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
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use train::gradient;
use train::optimizer::OnePassAdamW;

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

/// An operation on matrices: which it takes, and how it is applied.
struct Node {
    name: &'static str,
    inputs: fn(usize) -> Vec<[usize; 2]>,
    apply: Apply,
}

enum Apply {
    /// With gradients to all inputs.
    Graph(fn(&[Tensor<2>]) -> Tensor<2>),
    /// Outside a graph.
    Plain(fn(&[Tensor<2>]) -> Vec<Tensor<2>>),
}

use Apply::{Graph, Plain};

const NODES: &[Node] = &[
    Node {
        name: "rms_norm",
        inputs: |n| vec![[n, WIDTHS[0]]],
        apply: Graph(|x| rms_norm(x[0].clone(), gain(&x[0]), 1e-5)),
    },
    Node {
        name: "swiglu",
        inputs: |n| vec![[n, WIDTHS[1]], [n, WIDTHS[1]]],
        apply: Graph(|x| swiglu(x[0].clone(), x[1].clone())),
    },
    Node {
        name: "linear",
        inputs: |n| vec![[n, WIDTHS[0]]],
        apply: Graph(|x| linear(x[0].clone(), frozen(&x[0], WIDTHS[1], DType::F32))),
    },
    Node {
        name: "add_low_rank",
        inputs: |n| [vec![[n, WIDTHS[1]], [n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: Graph(|x| add_low_rank(x[0].clone(), x[1].clone(), mixture(&x[2..]))),
    },
    Node {
        name: "adapted_linear",
        inputs: |n| [vec![[n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: Graph(|x| {
            let weight = frozen(&x[0], WIDTHS[1], DType::F32);
            adapted_linear(normed(&x[0]), weight, mixture(&x[1..]))
        }),
    },
    Node {
        name: "adapted_linear_bf16",
        inputs: |n| [vec![[n, WIDTHS[0]]], mixture_shapes(n)].concat(),
        apply: Graph(|x| {
            let weight = frozen(&x[0], WIDTHS[1], DType::BF16);
            adapted_linear(normed(&x[0]), weight, mixture(&x[1..]))
        }),
    },
    Node {
        name: "route",
        inputs: |n| vec![[n, WIDTHS[0]], [WIDTHS[0], EXPERTS[0]]],
        apply: Graph(|x| route(normed(&x[0]), x[1].clone())),
    },
    Node {
        name: "log_likelihood",
        inputs: |n| vec![[n, WIDTHS[2]]],
        apply: Graph(|x| {
            let n = x[0].dims()[0] as i64;
            let rows = Tensor::arange(0..n, &x[0].device());
            let tokens = (rows.clone() * 7).remainder_scalar(WIDTHS[2] as i64);
            log_likelihood(x[0].clone() * 9.0, rows, tokens).unsqueeze()
        }),
    },
    Node {
        name: "rotary",
        inputs: |n| vec![[2 * n, HEADS[0] * HEADS[2]]],
        apply: Graph(|x| rotary(&x[0], HEADS[2] / 2)),
    },
    Node {
        name: "rotary_part",
        inputs: |n| vec![[2 * n, HEADS[0] * HEADS[2]]],
        apply: Graph(|x| rotary(&x[0], HEADS[2] / 2 - 2)),
    },
    Node {
        name: "attention",
        inputs: attention_shapes,
        apply: Graph(|x| padded_attention(x, EXACT)),
    },
    Node {
        name: "attention_window",
        inputs: attention_shapes,
        apply: Graph(|x| {
            let window = Some(20);
            padded_attention(x, Heads { window, ..EXACT })
        }),
    },
    Node {
        name: "attention_soft_cap",
        inputs: attention_shapes,
        apply: Graph(|x| {
            // Below the largest scores of such inputs.
            let soft_cap = Some(0.5);
            padded_attention(x, Heads { soft_cap, ..EXACT })
        }),
    },
    Node {
        name: "adamw",
        inputs: |n| vec![[n, WIDTHS[0]]; 3],
        apply: Plain(adamw),
    },
    Node {
        name: "clip_norm",
        inputs: |n| vec![[n, WIDTHS[0]], [WIDTHS[1], 3]],
        apply: Plain(clip_norm),
    },
    Node {
        name: "attention_flash",
        inputs: attention_shapes,
        apply: Graph(|x| {
            let attention = AttentionKind::Flash;
            padded_attention(x, Heads { attention, ..EXACT })
        }),
    },
];

/// What a node's difference may be, whatever is asked: a weight of bf16 has eight bits, and flash
/// attention's products may take parts of 16.
fn excused(node: &str) -> f64 {
    match node {
        "adapted_linear_bf16" => 2e-2,
        "attention_flash" => 1e-2,
        _ => 0.0,
    }
}

const EXACT: Heads = Heads {
    queries: HEADS[0],
    keys: HEADS[1],
    window: None,
    soft_cap: None,
    attention: AttentionKind::Exact,
};

/// Queries, keys and values of two rows of n tokens.
fn attention_shapes(n: usize) -> Vec<[usize; 2]> {
    let [queries, keys, width] = HEADS;
    [queries, keys, keys]
        .map(|heads| [2 * n, heads * width])
        .into()
}

/// [`rotary_attention`], whose width follows from its heads: two rows, the second padded.
fn padded_attention(x: &[Tensor<2>], heads: Heads) -> Tensor<2> {
    let (tokens, device) = (x[0].dims()[0], x[0].device());
    let n = tokens as i64 / 2;
    let row = |t: Tensor<1, Int>| t.reshape([2, n as usize]);
    let real = row(Tensor::<1, Int>::arange(0..2 * n, &device))
        .lower_elem(2 * n - n / 3)
        .int();
    let place = row(places(tokens, &device));
    let visibility =
        Visibility::new(real.clone(), real.zeros_like(), place).with_masks(std::iter::once(heads));
    let y = rotary_attention(
        [x[0].clone(), x[1].clone(), x[2].clone()],
        &angles(&x[0], HEADS[2] / 2),
        &visibility,
        heads,
    );
    // What comes out at padding means nothing.
    y * real.float().reshape([tokens, 1])
}

/// Each token's place in its row, of two rows.
fn places(tokens: usize, device: &Device) -> Tensor<1, Int> {
    Tensor::<1, Int>::arange(0..tokens as i64, device).remainder_scalar(tokens as i64 / 2)
}

/// The angles of so many pairs of a head's values, of the two rows of x.
fn angles(x: &Tensor<2>, pairs: usize) -> Angles {
    let (tokens, host) = (x.dims()[0], Device::flex());
    let frequencies = Tensor::<1, Int>::arange(0..pairs as i64, &host).float() + 1.0;
    let place = places(tokens, &host).float().reshape([tokens, 1]);
    let angle = place * frequencies.recip().unsqueeze::<2>();
    Angles {
        cos: moved(angle.clone().cos(), &x.device()),
        sin: moved(angle.sin(), &x.device()),
    }
}

/// `sin(step i)` for i from 0.
fn wave(count: usize, step: f64, device: &Device) -> Tensor<1> {
    let places = Tensor::<1, Int>::arange(0..count as i64, &Device::flex()).float();
    moved((places * step).sin(), device)
}

/// What the processor computed: devices have sines of their own.
fn moved<const D: usize>(x: Tensor<D>, device: &Device) -> Tensor<D> {
    Tensor::from_data(x.into_data(), device)
}

/// The rotation of queries alone.
fn rotary(x: &Tensor<2>, pairs: usize) -> Tensor<2> {
    let [tokens, columns] = x.dims();
    let [queries, _, width] = HEADS;
    let heads = x.clone().reshape([2, tokens / 2, queries, width]);
    angles(x, pairs)
        .rotate(heads.swap_dims(1, 2))
        .swap_dims(1, 2)
        .reshape([tokens, columns])
}

/// A parameter and its moments after a step for each gradient, the inputs after the first.
fn adamw(x: &[Tensor<2>]) -> Vec<Tensor<2>> {
    let optimizer = OnePassAdamW::new(0.01);
    let (mut parameter, mut state) = (x[0].clone(), None);
    for gradient in &x[1..] {
        (parameter, state) = optimizer.step(0.01, parameter, gradient.clone(), state);
    }
    let momentum = state.expect("a step was taken").momentum;
    vec![parameter, momentum.moment_1, momentum.moment_2]
}

/// Gradients that are scaled to a joint norm of 1.
fn clip_norm(x: &[Tensor<2>]) -> Vec<Tensor<2>> {
    let parameter = |gradient: &Tensor<2>| Param::from_tensor(gradient.zeros_like());
    let module: Vec<Param<Tensor<2>>> = x.iter().map(parameter).collect();
    let mut gradients = GradientsParams::new();
    for (parameter, gradient) in module.iter().zip(x) {
        gradients.register(parameter.id, gradient.clone());
    }
    let squares = gradient::squares(&module, &gradients).expect("there are gradients");
    gradient::clip(&module, &mut gradients, squares, 1.0);
    let mut clipped = |parameter: &Param<Tensor<2>>| gradients.remove(parameter.id);
    module
        .iter()
        .map(|parameter| clipped(parameter).expect("every gradient is kept"))
        .collect()
}

fn gain(x: &Tensor<2>) -> Tensor<1> {
    Tensor::<1, Int>::arange(1..x.dims()[1] as i64 + 1, &x.device()).float() / 40.0
}

/// A frozen weight for x, the same on every device.
fn frozen(x: &Tensor<2>, out: usize, kind: DType) -> Tensor<2> {
    let (width, device) = (x.dims()[1], x.device().without_autodiff());
    let weight = wave(out * width, 0.618, &device) / (width as f64).sqrt();
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

/// What a node says on a device, and every gradient. `transposed` stores the first input the other
/// way round, so that its values are the same and its strides are not.
fn applied(node: &Node, inputs: &[TensorData], transposed: bool, device: &Device) -> Vec<Vec<f64>> {
    let device = match node.apply {
        Graph(_) => device.clone().autodiff(),
        Plain(_) => device.clone(),
    };
    let turned = |place: usize, x: Tensor<2>| match transposed && place == 0 {
        true => x.transpose(),
        false => x,
    };
    let stored: Vec<Tensor<2>> = inputs
        .iter()
        .enumerate()
        .map(|(place, data)| match transposed && place == 0 {
            true => Tensor::from_data(other_way_round(data), &device),
            false => Tensor::from_data(data.clone(), &device),
        })
        .collect();
    let values =
        |t: Tensor<2>| -> Vec<f64> { t.cast(DType::F32).into_data().try_into_vec_as().unwrap() };
    let read = |stored: &[Tensor<2>]| -> Vec<Tensor<2>> {
        let inputs = stored.iter().cloned().enumerate();
        inputs.map(|(place, x)| turned(place, x)).collect()
    };
    match node.apply {
        Plain(apply) => apply(&read(&stored)).into_iter().map(values).collect(),
        Graph(apply) => {
            let leaves: Vec<Tensor<2>> = stored.into_iter().map(Tensor::require_grad).collect();
            let y = apply(&read(&leaves));
            let [rows, columns] = y.dims();
            let upstream = wave(rows * columns, 0.37, &device).reshape([rows, columns]);
            let grads = (y.clone() * upstream).sum().backward();
            let mut found = vec![values(y.without_autodiff())];
            for (place, leaf) in leaves.iter().enumerate() {
                found.push(values(turned(place, leaf.grad(&grads).unwrap())));
            }
            found
        }
    }
}

/// A matrix's values as its transpose stores them.
fn other_way_round(data: &TensorData) -> TensorData {
    let matrix = Tensor::<2>::from_data(data.clone(), &Device::flex());
    matrix.transpose().into_data()
}

/// The largest difference, as a share of the largest value, or of a thousandth where all are
/// smaller: a gradient that is 0 has no size. Infinite where one is no number.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
    let pairs = found.iter().zip(expected);
    let worst = pairs.map(|(a, b)| match (a - b).abs() {
        d if d.is_nan() => f64::INFINITY,
        d => d,
    });
    worst.fold(0.0, f64::max) / scale
}

/// Compares as the flags say, of which the first is the program's name.
///
/// # Errors
/// A device that is not there. Flags that fit nothing end the process.
pub(crate) fn run(flags: impl Iterator<Item = OsString>) -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse_from(flags);
    let device = uq4ct::backend::find(&options.device)?.device;
    let host = Device::flex();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut all_right = true;
    for node in NODES {
        if node.name.ends_with("bf16") && !device.supports_dtype(FloatDType::BF16) {
            println!("{}", json!({ "node": node.name, "skipped": "no bf16" }));
            continue;
        }
        let tolerance = options.tolerance.max(excused(node.name));
        for (place, rows) in options.rows.iter().enumerate() {
            let draw = |shape: [usize; 2]| {
                let values = (0..shape[0] * shape[1]).map(|_| random.random_range(-1.0f32..1.0));
                TensorData::new(values.collect(), shape)
            };
            let inputs: Vec<TensorData> = (node.inputs)(*rows).into_iter().map(draw).collect();
            let expected = in_form(Form::Composed, || applied(node, &inputs, false, &host));
            let last = place + 1 == options.rows.len();
            for transposed in [false, true].into_iter().take(1 + usize::from(last)) {
                for form in [Form::Lean, Form::Composed] {
                    let start = Instant::now();
                    let found = in_form(form, || applied(node, &inputs, transposed, &device));
                    let seconds = start.elapsed().as_secs_f64();
                    assert_eq!(found.len(), expected.len(), "{}", node.name);
                    let pairs = found.iter().zip(&expected);
                    let off = pairs.map(|(a, b)| difference(a, b)).fold(0.0, f64::max);
                    let right = off <= tolerance;
                    all_right &= right;
                    println!(
                        "{}",
                        json!({
                            "node": node.name,
                            "rows": rows,
                            "form": format!("{form:?}").to_lowercase(),
                            "transposed": transposed,
                            "difference": off,
                            "right": right,
                            "first_seconds": seconds,
                        })
                    );
                }
            }
        }
    }
    Ok(match all_right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
