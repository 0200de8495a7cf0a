//! The parameters of an adapter by name: out of a model, and into one.

use std::borrow::Cow;
use std::collections::BTreeSet;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::DType;

use super::{Tensors, columns, shape};
use crate::adapter::{FusedModule, TargetModule};
use crate::error::ModelError;
use crate::llama::Llama;
use crate::projection::Projection;

impl Llama {
    /// The adapter's parameters by name, in f32.
    ///
    /// | name | shape | in a mixture |
    /// |---|---|---|
    /// | `layers.0.self_attn.q_proj.lora_a` | `[d_in, r]` | `[experts, d_in, r]` |
    /// | `layers.0.self_attn.q_proj.lora_b` | `[r, d_out]` | `[experts, r, d_out]` |
    /// | `layers.0.self_attn.q_proj.lora_g` | `[d_in, r]` | |
    /// | `layers.0.self_attn.q_proj.magnitude`, with DoRA | `[d_out]` | |
    /// | `layers.0.self_attn.q_proj.initial_a`, with PiSSA | `[d_in, r]` | |
    /// | `layers.0.self_attn.q_proj.initial_b`, with PiSSA | `[r, d_out]` | |
    /// | `layers.0.attention_router`, `layers.0.mlp_router` | | `[d, experts]` |
    /// | `layers.0.mlp_router.mass`, with `normalized_delta` | | `[1, 1]` |
    ///
    /// Where A is random, `lora_a` is its mean and `lora_g` the root of its standard deviation.
    pub fn adapter_tensors(&self) -> Tensors {
        let mut model = self.clone();
        let mut tensors = Tensors::new();
        model
            .each_parameter(|name, parameter| {
                tensors.insert(name, parameter.data());
                Ok(())
            })
            .expect("nothing refuses");
        tensors
    }

    /// The model with other parameters in its adapter, by the names of [`Self::adapter_tensors`].
    /// Those with which PiSSA began may be left out where they are found again, and a LoRA of
    /// matrices that some files hold as one (`layers.0.self_attn.qkv_proj.lora_a`) is taken apart.
    ///
    /// # Errors
    /// A parameter that is missing, has another shape, or has no place in the model.
    pub fn with_adapter_tensors(mut self, tensors: &Tensors) -> Result<Self, ModelError> {
        let tensors = &*self.apart(tensors)?;
        let initial = tensors.keys().any(|name| is_initial(name));
        let mut left: BTreeSet<&String> = tensors.keys().collect();
        self.each_parameter(|name, parameter| {
            if !initial && is_initial(&name) {
                return Ok(());
            }
            let data = tensors
                .get(&name)
                .ok_or_else(|| ModelError::MissingWeight {
                    name: name.clone(),
                    present: tensors.len(),
                    example: tensors.keys().next().cloned().unwrap_or_default(),
                })?;
            left.remove(&name);
            parameter.set(&name, data)
        })?;
        match left.first() {
            None => Ok(self),
            Some(first) => Err(ModelError::setting(
                "adapter",
                format!(
                    "{} of its {} parameters have no place in this model ({first}, ..): the adapter belongs to another model or to other settings of [adapter]",
                    left.len(),
                    tensors.len()
                ),
            )),
        }
    }

    /// The parameters with those of matrices that some files hold as one taken apart: A is that of
    /// each part, B and the magnitudes are cut.
    fn apart<'a>(&mut self, tensors: &'a Tensors) -> Result<Cow<'a, Tensors>, ModelError> {
        let mut found = Cow::Borrowed(tensors);
        for (place, layer) in self.layers.iter_mut().enumerate() {
            for fused in FusedModule::ALL {
                let widths = fused.parts().iter();
                let widths: Vec<usize> = widths
                    .map(|part| layer.projection(*part).base().sizes()[1])
                    .collect();
                for matrix in ["lora_a", "lora_b", "magnitude"] {
                    let name = format!("layers.{place}.{}.{matrix}", fused.path());
                    if !found.contains_key(&name) {
                        continue;
                    }
                    let found = found.to_mut();
                    let Some(data) = found.remove(&name) else {
                        continue;
                    };
                    let expected: usize = widths.iter().sum();
                    let own = shape(&data);
                    if matrix != "lora_a" && own.last() != Some(&expected) {
                        let mut wanted = own.clone();
                        wanted.pop();
                        wanted.push(expected);
                        return Err(ModelError::Shape {
                            name,
                            found: own,
                            expected: wanted,
                        });
                    }
                    let mut first = 0;
                    for (part, width) in fused.parts().iter().zip(&widths) {
                        let data = match matrix {
                            "lora_a" => data.clone(),
                            _ => columns(&data, first..first + width),
                        };
                        first += width;
                        found.insert(format!("layers.{place}.{}.{matrix}", part.path()), data);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Visits the adapter's parameters with their names.
    fn each_parameter(
        &mut self,
        mut visit: impl FnMut(String, Parameter) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        for (place, layer) in self.layers.iter_mut().enumerate() {
            for target in TargetModule::ALL {
                let name = |matrix: &str| format!("layers.{place}.{}.{matrix}", target.path());
                match layer.projection(target) {
                    Projection::Dense(_) => {}
                    Projection::Lora(lora) => {
                        visit(name("lora_a"), Parameter::Matrix(&mut lora.lora_a))?;
                        visit(name("lora_b"), Parameter::Matrix(&mut lora.lora_b))?;
                        if let Some(g) = &mut lora.lora_g {
                            visit(name("lora_g"), Parameter::Matrix(g))?;
                        }
                        if let Some(magnitude) = &mut lora.magnitude {
                            visit(name("magnitude"), Parameter::Vector(magnitude))?;
                        }
                        if let Some(a) = &mut lora.initial_a {
                            visit(name(INITIAL[0]), Parameter::Matrix(a))?;
                        }
                        if let Some(b) = &mut lora.initial_b {
                            visit(name(INITIAL[1]), Parameter::Matrix(b))?;
                        }
                    }
                    Projection::MixLora(mix) => {
                        visit(name("lora_a"), Parameter::Stack(&mut mix.lora_a))?;
                        visit(name("lora_b"), Parameter::Stack(&mut mix.lora_b))?;
                    }
                }
            }
            let routers = [
                ("attention_router", &mut layer.attention_router),
                ("mlp_router", &mut layer.mlp_router),
            ];
            for (name, router) in routers {
                if let Some(router) = router {
                    let name = format!("layers.{place}.{name}");
                    visit(name.clone(), Parameter::Matrix(&mut router.weight))?;
                    if let Some(mass) = &mut router.running_mass {
                        visit(format!("{name}.mass"), Parameter::Matrix(mass))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Names of the matrices with which PiSSA began.
const INITIAL: [&str; 2] = ["initial_a", "initial_b"];

fn is_initial(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    INITIAL.contains(&last)
}

/// A parameter of the adapter.
enum Parameter<'a> {
    /// One value for each output.
    Vector(&'a mut Param<Tensor<1>>),
    /// One matrix.
    Matrix(&'a mut Param<Tensor<2>>),
    /// One matrix for each expert.
    Stack(&'a mut Param<Tensor<3>>),
}

impl Parameter<'_> {
    fn data(&self) -> TensorData {
        match self {
            Self::Vector(param) => param.val().into_data(),
            Self::Matrix(param) => param.val().into_data(),
            Self::Stack(param) => param.val().into_data(),
        }
        .convert::<f32>()
    }

    fn set(self, name: &str, data: &TensorData) -> Result<(), ModelError> {
        match self {
            Self::Vector(param) => replace(param, name, data),
            Self::Matrix(param) => replace(param, name, data),
            Self::Stack(param) => replace(param, name, data),
        }
    }
}

fn replace<const D: usize>(
    param: &mut Param<Tensor<D>>,
    name: &str,
    data: &TensorData,
) -> Result<(), ModelError> {
    let (expected, found) = (param.shape(), data.shape());
    if expected.as_slice() != found.as_slice() {
        return Err(ModelError::Shape {
            name: name.into(),
            found: found.as_slice().to_vec(),
            expected: expected.as_slice().to_vec(),
        });
    }
    *param = param.clone().map(|old| {
        let device = old.device();
        Tensor::from_data(data.clone(), (&device, DType::F32))
    });
    Ok(())
}
