//! The projections that an adapter can target.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

// The numbers are places in the streams of dropout seeds: with other numbers, a resumed training
// would draw other masks.
/// A linear projection of a decoder layer.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TargetModule {
    /// Query.
    QProj = 0,
    /// Key.
    KProj = 1,
    /// Value.
    VProj = 2,
    /// Attention output.
    OProj = 3,
    /// SwiGLU's gate.
    GateProj = 4,
    /// SwiGLU's up.
    UpProj = 5,
    /// SwiGLU's down.
    DownProj = 6,
}

impl TargetModule {
    /// All seven projections, in the order of the forward pass.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];

    /// Hugging Face's name of the projection: `q_proj`, ..
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit('.').next().unwrap_or(path)
    }

    /// Hugging Face's path of the projection in a decoder layer: `self_attn.q_proj`, ..
    pub fn path(self) -> &'static str {
        match self {
            Self::QProj => "self_attn.q_proj",
            Self::KProj => "self_attn.k_proj",
            Self::VProj => "self_attn.v_proj",
            Self::OProj => "self_attn.o_proj",
            Self::GateProj => "mlp.gate_proj",
            Self::UpProj => "mlp.up_proj",
            Self::DownProj => "mlp.down_proj",
        }
    }

    /// Whether the projection belongs to the feed-forward block.
    pub fn is_mlp(self) -> bool {
        matches!(self, Self::GateProj | Self::UpProj | Self::DownProj)
    }

    /// Hugging Face's name of the projection in a model: `model.layers.0.self_attn.q_proj`, ..
    pub fn full_name(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.path())
    }

    /// Width of the input and of the output of the projection of a base model.
    pub fn sizes(self, base: &ModelConfig) -> [usize; 2] {
        let (d, f) = (base.hidden_size, base.intermediate_size);
        let q = base.num_attention_heads * base.head_dim;
        let kv = base.num_key_value_heads * base.head_dim;
        match self {
            Self::QProj => [d, q],
            Self::KProj | Self::VProj => [d, kv],
            Self::OProj => [q, d],
            Self::GateProj | Self::UpProj => [d, f],
            Self::DownProj => [f, d],
        }
    }

    /// The matrix that holds the projection with others in the files of some families.
    pub fn fused(self) -> Option<FusedModule> {
        FusedModule::ALL
            .into_iter()
            .find(|fused| fused.parts().contains(&self))
    }
}

/// Projections that the files of some families, such as Phi-3, hold as one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedModule {
    /// Query, key and value.
    Qkv,
    /// SwiGLU's gate and up.
    GateUp,
}

impl FusedModule {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Qkv, Self::GateUp];

    /// Hugging Face's name: `qkv_proj`, `gate_up_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "qkv_proj",
            Self::GateUp => "gate_up_proj",
        }
    }

    /// Hugging Face's path in a decoder layer: `self_attn.qkv_proj`, `mlp.gate_up_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Qkv => "self_attn.qkv_proj",
            Self::GateUp => "mlp.gate_up_proj",
        }
    }

    /// The projections that it holds, in the order of its rows.
    pub fn parts(self) -> &'static [TargetModule] {
        match self {
            Self::Qkv => &[
                TargetModule::QProj,
                TargetModule::KProj,
                TargetModule::VProj,
            ],
            Self::GateUp => &[TargetModule::GateProj, TargetModule::UpProj],
        }
    }
}
