//! The rotary settings of a `config.json`, in their old and new spellings.

use std::collections::BTreeMap;

use super::RopeScaling;
use crate::error::ModelError;

/// What stands outside of the settings and fills their gaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outside {
    /// The base of the rotation, `rope_theta`.
    pub theta: f64,
    /// `max_position_embeddings`
    pub context: f64,
    /// `original_max_position_embeddings` beside the settings, or the family's own.
    pub original_context: Option<f64>,
}

/// What the settings say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotation {
    /// The base of the rotation.
    pub theta: f64,
    /// How its wavelengths are stretched.
    pub scaling: Option<RopeScaling>,
    /// The share of a head that is rotated, where the settings name it.
    pub share: Option<f64>,
}

/// The types of rotary scaling.
const KINDS: &str = "default, linear, dynamic, llama3, yarn or longrope";

const YARN: &[&str] = &[
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
];

const LONGROPE: &[&str] = &["factor", "attention_factor", "short_factor", "long_factor"];

/// The object `rope_scaling` or `rope_parameters`, each of whose settings must be understood.
pub(super) struct RopeSettings<'a> {
    /// The object's name in `config.json`.
    key: &'static str,
    /// The settings in it that are not null.
    settings: BTreeMap<&'a str, &'a serde_json::Value>,
}

impl<'a> RopeSettings<'a> {
    pub(super) fn of(key: &'static str, value: &'a serde_json::Value) -> Result<Self, ModelError> {
        let object = value.as_object().ok_or_else(|| {
            ModelError::setting(key, format!("expected an object or null, got {value}"))
        })?;
        let set = object.iter().filter(|(_, value)| !value.is_null());
        Ok(Self {
            key,
            settings: set.map(|(name, value)| (name.as_str(), value)).collect(),
        })
    }

    /// What the settings say.
    pub(super) fn resolve(&self, outside: Outside) -> Result<Rotation, ModelError> {
        let kind = self.kind()?;
        let (scaling, read): (_, &[&str]) = match kind {
            "default" => (None, &[]),
            "linear" => {
                let factor = self.number("factor")?;
                (Some(RopeScaling::Linear { factor }), &["factor"])
            }
            // It acts beyond the trained context alone, which no sequence leaves here.
            "dynamic" => {
                self.number("factor")?;
                (None, &["factor"])
            }
            "llama3" => (
                Some(RopeScaling::Llama3 {
                    factor: self.number("factor")?,
                    low_freq_factor: self.number("low_freq_factor")?,
                    high_freq_factor: self.number("high_freq_factor")?,
                    original_max_position_embeddings: self.original_context(outside)?,
                }),
                &["factor", "low_freq_factor", "high_freq_factor"],
            ),
            "yarn" => (Some(self.yarn(outside)?), YARN),
            // Phi-3's first files call it `su`.
            "longrope" | "su" => (Some(self.longrope(outside)?), LONGROPE),
            other => {
                let reason = format!("expected {KINDS}, got {other:?}");
                return Err(self.refused("rope_type", reason));
            }
        };
        // The last one says for what length a model was made, which changes nothing by itself.
        let always = [
            "rope_type",
            "type",
            "rope_theta",
            "partial_rotary_factor",
            "original_max_position_embeddings",
        ];
        let known = |name: &str| always.contains(&name) || read.contains(&name);
        if let Some(name) = self.settings.keys().find(|name| !known(name)) {
            let reason = format!("is not implemented for the type {kind:?}");
            return Err(self.refused(name, reason));
        }
        Ok(Rotation {
            theta: self.number_or("rope_theta", outside.theta)?,
            share: match self.settings.contains_key("partial_rotary_factor") {
                true => Some(self.number("partial_rotary_factor")?),
                false => None,
            },
            scaling,
        })
    }

    fn yarn(&self, outside: Outside) -> Result<RopeScaling, ModelError> {
        let factor = self.number("factor")?;
        let original = self.original_context(outside)?;
        let mscale = |scale: f64| match factor > 1.0 {
            true => 0.1 * scale * factor.ln() + 1.0,
            false => 1.0,
        };
        let attention_factor = match ["mscale", "mscale_all_dim"].map(|n| self.given(n)) {
            [Some(one), Some(all)] => mscale(one) / mscale(all),
            _ => mscale(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: self.number_or("beta_fast", 32.0)?,
            beta_slow: self.number_or("beta_slow", 1.0)?,
            truncate: match self.settings.get("truncate") {
                None => true,
                Some(value) => value.as_bool().ok_or_else(|| {
                    self.refused("truncate", format!("expected true or false, got {value}"))
                })?,
            },
            attention_factor: self.number_or("attention_factor", attention_factor)?,
        })
    }

    /// The trained context. As in transformers the one beside the settings goes before theirs.
    fn original_context(&self, outside: Outside) -> Result<f64, ModelError> {
        let own = self.number_or("original_max_position_embeddings", outside.context)?;
        Ok(outside.original_context.unwrap_or(own))
    }

    fn longrope(&self, outside: Outside) -> Result<RopeScaling, ModelError> {
        let original = self.original_context(outside)?;
        let factor = self.number_or("factor", outside.context / original)?;
        let attention_factor = match factor > 1.0 {
            true => (1.0 + factor.ln() / original.ln()).sqrt(),
            false => 1.0,
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.number_or("attention_factor", attention_factor)?,
        })
    }

    /// The type of the scaling. Older files call it `type`.
    fn kind(&self) -> Result<&'a str, ModelError> {
        let named = |name: &str| match self.settings.get(name) {
            None => Ok(None),
            Some(serde_json::Value::String(kind)) => Ok(Some(kind.as_str())),
            Some(other) => Err(self.refused(name, format!("expected a name, got {other}"))),
        };
        match (named("rope_type")?, named("type")?) {
            (Some(new), Some(old)) if new != old => {
                Err(self.refused("rope_type", format!("is {new:?}, but type is {old:?}")))
            }
            (Some(kind), _) | (None, Some(kind)) => Ok(kind),
            (None, None)
                if self
                    .settings
                    .keys()
                    .all(|name| ["rope_theta", "partial_rotary_factor"].contains(name)) =>
            {
                Ok("default")
            }
            (None, None) => Err(self.refused("rope_type", format!("is missing: expected {KINDS}"))),
        }
    }

    fn number(&self, name: &str) -> Result<f64, ModelError> {
        let found = self.settings.get(name).and_then(|value| value.as_f64());
        found.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| {
            let found = self
                .settings
                .get(name)
                .map_or("nothing".into(), |v| v.to_string());
            self.refused(name, format!("expected a positive number, got {found}"))
        })
    }

    /// A number that may be left out.
    fn number_or(&self, name: &str, otherwise: f64) -> Result<f64, ModelError> {
        match self.settings.contains_key(name) {
            true => self.number(name),
            false => Ok(otherwise),
        }
    }

    fn given(&self, name: &str) -> Option<f64> {
        self.settings.get(name).and_then(|value| value.as_f64())
    }

    fn numbers(&self, name: &str) -> Result<Vec<f64>, ModelError> {
        let list = self.settings.get(name).and_then(|value| value.as_array());
        let numbers = list.and_then(|list| {
            let number = |value: &serde_json::Value| value.as_f64().filter(|v| *v > 0.0);
            list.iter().map(number).collect::<Option<Vec<f64>>>()
        });
        numbers.ok_or_else(|| self.refused(name, "expected a list of positive numbers".into()))
    }

    fn refused(&self, name: &str, reason: String) -> ModelError {
        ModelError::setting(format!("{}.{name}", self.key), reason)
    }
}
