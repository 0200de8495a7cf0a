//! The projections that an adapter can target.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}
