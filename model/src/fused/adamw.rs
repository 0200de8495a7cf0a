//! One parameter's AdamW update (Loshchilov and Hutter 2019), in one pass and in place: the update
//! does little arithmetic on much memory.
//!
//! It needs no backward pass. Where there is no kernel, the caller takes Burn's own optimizer.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::{Tensor, TensorData};
use pulp::{Arch, Simd};
use rayon::prelude::*;

use super::Implementation;
use super::flex::buffer::Buffer;
use super::flex::values;

/// Values handled by one task.
const BLOCK: usize = 16 * 1024;

/// The hyperparameters of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The learning rate.
    pub rate: f64,
    /// Decay of the first moment, b1.
    pub beta_1: f32,
    /// Decay of the second moment, b2.
    pub beta_2: f32,
    /// The number added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// The number of the step, t, counted from 1.
    pub time: usize,
}

/// A parameter with its moments, all of one shape.
#[derive(ExtensionType, Clone, Debug)]
pub struct State<B: Backend> {
    /// The parameter, p.
    pub parameter: FloatTensor<B>,
    /// First moment.
    pub moment_1: FloatTensor<B>,
    /// The second moment, v.
    pub moment_2: FloatTensor<B>,
}

/// [`adamw()`] as Burn dispatches it.
#[backend_extension(Flex)]
pub trait Extension: Backend {
    /// See [`adamw()`].
    fn adamw(
        #[extension_type] state: State<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> State<Self>;
}

/// Whether [`adamw()`] has a kernel for a tensor.
pub fn serves<const D: usize>(parameter: &Tensor<D>) -> bool {
    Implementation::of(&[parameter]) == Implementation::Flex
}

/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `p = p (1 - rate decay) - rate (m / (1 -
/// b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)`. Returns p, m and v. For tensors outside a graph.
///
/// # Panics
/// Where there is no kernel: ask [`serves`] first.
pub fn adamw<const D: usize>(
    [parameter, moment_1, moment_2]: [Tensor<D>; 3],
    gradient: Tensor<D>,
    step: Step,
) -> [Tensor<D>; 3] {
    let state = State {
        parameter: parameter.into_dispatch(),
        moment_1: moment_1.into_dispatch(),
        moment_2: moment_2.into_dispatch(),
    };
    let state = Dispatch::adamw(state, gradient.into_dispatch(), step);
    [state.parameter, state.moment_1, state.moment_2].map(Tensor::from_dispatch)
}

impl Extension for Flex {
    fn adamw(state: State<Self>, gradient: FlexTensor, step: Step) -> State<Self> {
        // In place, where nobody else holds the tensors: the argument's own handles end here.
        let [mut parameter, mut moment_1, mut moment_2] =
            [state.parameter, state.moment_1, state.moment_2].map(|t| t.to_contiguous());
        let gradient = gradient.to_contiguous();
        let moments = (
            moment_1.storage_mut::<f32>().par_chunks_mut(BLOCK),
            moment_2.storage_mut::<f32>().par_chunks_mut(BLOCK),
            values(&gradient).par_chunks(BLOCK),
        )
            .into_par_iter();
        if parameter.is_unique() {
            let own = parameter.storage_mut::<f32>().par_chunks_mut(BLOCK);
            own.zip(moments)
                .for_each(|(p, (m, v, g))| update(p, m, v, g, step));
        } else {
            // burn-train's optimizer holds a clone of the whole model. What must be copied is
            // copied on all cores.
            let old = values(&parameter);
            let mut new = Buffer::new(old.len());
            new.par_chunks_mut(BLOCK)
                .zip(old.par_chunks(BLOCK))
                .zip(moments)
                .for_each(|((p, old), (m, v, g))| {
                    p.copy_from_slice(old);
                    update(p, m, v, g, step);
                });
            parameter = tensor_like(new.into_vec(), &parameter);
        }
        State {
            parameter,
            moment_1,
            moment_2,
        }
    }
}

/// Values in the shape of another tensor.
fn tensor_like(values: Vec<f32>, other: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, other.layout().shape().clone()))
}

#[pulp::with_simd(update = Arch::new())]
#[inline(always)]
fn update_with<'a, S: Simd>(
    _simd: S,
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    step: Step,
) {
    let time = step.time as i32;
    let keep = (1.0 - step.rate * f64::from(step.weight_decay)) as f32;
    let rate = step.rate as f32 / (1.0 - step.beta_1.powi(time));
    let scale = (1.0 - step.beta_2.powi(time)).recip();
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        *m = step.beta_1 * *m + (1.0 - step.beta_1) * g;
        *v = step.beta_2 * *v + (1.0 - step.beta_2) * g * g;
        *p = keep * *p - rate * *m / ((*v * scale).sqrt() + step.epsilon);
    }
}
