//! Projections chosen by name, as peft spells it: names, `all-linear`, a regular expression; and
//! values by name, such as its `rank_pattern`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use fancy_regex::Regex;
use serde::de::{self, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{FusedModule, TargetModule};

/// A regular expression as peft reads it: one that matches a whole name.
#[derive(Clone)]
pub struct Expression {
    text: String,
    regex: Arc<Regex>,
}

impl Expression {
    /// An expression that matches a name from its beginning to its end.
    ///
    /// # Errors
    /// Text that is no regular expression.
    pub fn whole(text: &str) -> Result<Self, String> {
        Self::compiled(text, format!(r"\A(?:{text})\z"))
    }

    /// An expression that matches a name, or what follows one of its dots.
    ///
    /// # Errors
    /// Text that is no regular expression.
    pub fn ending(text: &str) -> Result<Self, String> {
        Self::compiled(text, format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    fn compiled(text: &str, regex: String) -> Result<Self, String> {
        // By itself first: `a)(b` would be one between the brackets.
        let wrong = |e| format!("{text:?} is no regular expression: {e}");
        Regex::new(text).map_err(wrong)?;
        Ok(Self {
            text: text.into(),
            regex: Arc::new(Regex::new(&regex).map_err(wrong)?),
        })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches a projection by its name, by the one that it has in the language part of
    /// a larger model, or, if it says so, by that of the matrix that holds it in some families:
    /// `.*v_proj` is not meant to match `qkv_proj`. One that gives up on a name does not match it.
    fn matches(&self, layer: usize, target: TargetModule) -> bool {
        let matches = |name: &String| self.regex.is_match(name).unwrap_or(false);
        let names = names(layer, target);
        let says = FusedModule::ALL.into_iter().any(|fused| {
            let start = fused.name().trim_end_matches("_proj");
            self.text.contains(start)
        });
        let known = if says { &names[..] } else { &names[..2] };
        known.iter().any(matches)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// Names of a projection: its own, the one in the language part of a larger model, and that of the
/// matrix that holds it in some families.
fn names(layer: usize, target: TargetModule) -> Vec<String> {
    let in_part = format!("model.language_model.layers.{layer}.{}", target.path());
    let fused = target.fused();
    let fused = fused.map(|fused| format!("model.layers.{layer}.{}", fused.path()));
    [Some(target.full_name(layer)), Some(in_part), fused]
        .into_iter()
        .flatten()
        .collect()
}

/// The projections that an adapter changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// These, in every layer.
    Modules(BTreeSet<TargetModule>),
    /// Those whose names end in one of these: `layers.0.self_attn.q_proj`, ..
    Names(BTreeSet<String>),
    /// Those whose whole names match: `model.layers.0.self_attn.q_proj`, ..
    Expression(Expression),
}

impl Targets {
    /// Whether a projection of a layer is one of them.
    pub fn contains(&self, layer: usize, target: TargetModule) -> bool {
        match self {
            Self::Modules(modules) => modules.contains(&target),
            Self::Names(ends) => names(layer, target).iter().any(|name| {
                let fits = |end: &String| {
                    let before = name.strip_suffix(end.as_str());
                    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
                };
                ends.iter().any(fits)
            }),
            Self::Expression(expression) => expression.matches(layer, target),
        }
    }

    /// The projections, if they are the same in every layer by name.
    pub fn modules(&self) -> Option<&BTreeSet<TargetModule>> {
        match self {
            Self::Modules(modules) => Some(modules),
            _ => None,
        }
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Modules(modules) => modules.is_empty(),
            Self::Names(names) => names.is_empty(),
            Self::Expression(expression) => expression.text.is_empty(),
        }
    }

    /// What a list of names stands for.
    fn listed(list: Vec<String>) -> Result<Self, String> {
        let modules: Vec<Option<Vec<TargetModule>>> =
            list.iter().map(|name| modules_of(name)).collect();
        if modules.iter().all(Option::is_some) {
            return Ok(Self::Modules(
                modules.into_iter().flatten().flatten().collect(),
            ));
        }
        let known = |name: &&String| {
            let last = name.rsplit('.').next().unwrap_or_default();
            modules_of(last).is_none()
        };
        match list.iter().find(known) {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(Self::Names(list.into_iter().collect())),
        }
    }
}

/// The projections of a layer that go by a name without dots.
fn modules_of(name: &str) -> Option<Vec<TargetModule>> {
    let fused = FusedModule::ALL.into_iter().find(|f| f.name() == name);
    match fused {
        Some(fused) => Some(fused.parts().to_vec()),
        None => {
            let one = TargetModule::ALL.into_iter().find(|t| t.name() == name);
            one.map(|one| vec![one])
        }
    }
}

impl From<BTreeSet<TargetModule>> for Targets {
    fn from(modules: BTreeSet<TargetModule>) -> Self {
        Self::Modules(modules)
    }
}

impl<const N: usize> From<[TargetModule; N]> for Targets {
    fn from(modules: [TargetModule; N]) -> Self {
        Self::Modules(modules.into())
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Modules(modules) => modules.serialize(to),
            Self::Names(names) => names.serialize(to),
            Self::Expression(expression) => expression.text.serialize(to),
        }
    }
}

/// Names of projections, for a message about another.
const KNOWN: &[&str] = &[
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Targets;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of projections, \"all-linear\" or a regular expression")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Targets, E> {
                if text.eq_ignore_ascii_case("all-linear") {
                    return Ok(TargetModule::ALL.into());
                }
                if modules_of(text).is_some() {
                    return Err(E::custom(format!(
                        "{text:?} is a regular expression for whole names, such as \
                         model.layers.0.self_attn.q_proj: for projections by name, give a list, \
                         [{text:?}]"
                    )));
                }
                let expression = Expression::whole(text).map_err(E::custom)?;
                Ok(Targets::Expression(expression))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Targets, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = seq.next_element::<String>()? {
                    list.push(name);
                }
                Targets::listed(list)
                    .map_err(|wrong| <A::Error as de::Error>::unknown_variant(&wrong, KNOWN))
            }
        }
        from.deserialize_any(Read)
    }
}

/// Values for projections by name, as peft's `rank_pattern`: a key is a regular expression for a
/// name or its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, T>",
    into = "BTreeMap<String, T>",
    bound(
        serialize = "T: Copy + Serialize",
        deserialize = "T: Copy + DeserializeOwned"
    )
)]
pub struct ByName<T>(Vec<(Expression, T)>);

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> TryFrom<BTreeMap<String, T>> for ByName<T> {
    type Error = String;

    fn try_from(values: BTreeMap<String, T>) -> Result<Self, String> {
        let compiled = values
            .into_iter()
            .map(|(key, value)| Ok((Expression::ending(&key)?, value)));
        compiled.collect::<Result<_, String>>().map(Self)
    }
}

impl<T: Copy> From<ByName<T>> for BTreeMap<String, T> {
    fn from(values: ByName<T>) -> Self {
        let pairs = values.0.into_iter();
        pairs.map(|(key, value)| (key.text, value)).collect()
    }
}

impl<T: Copy + PartialEq> ByName<T> {
    /// Whether no projection has a value of its own.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }

    /// The value of a projection, if it has one.
    pub fn get(&self, layer: usize, target: TargetModule) -> Option<T> {
        self.all(layer, target).next().map(|(_, value)| value)
    }

    /// Two keys that give a projection different values: which of them counts would depend on their
    /// order.
    pub fn ambiguous(&self, layer: usize, target: TargetModule) -> Option<[&str; 2]> {
        let mut all = self.all(layer, target);
        let (first, value) = all.next()?;
        let (other, _) = all.find(|(_, other)| *other != value)?;
        Some([first, other])
    }

    fn all(&self, layer: usize, target: TargetModule) -> impl Iterator<Item = (&str, T)> {
        self.0
            .iter()
            .filter(move |(key, _)| key.matches(layer, target))
            .map(|(key, value)| (key.text(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetModule::{DownProj, GateProj, KProj, QProj, UpProj, VProj};

    fn read(json: &str) -> Result<Targets, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn names_all_linear_and_expressions_choose_as_peft_does() {
        let all: Targets = TargetModule::ALL.into();
        assert_eq!(read(r#""all-linear""#).unwrap(), all);
        assert_eq!(read(r#""All-Linear""#).unwrap(), all);
        assert_eq!(
            read(r#"["v_proj", "q_proj"]"#).unwrap(),
            [QProj, VProj].into()
        );
        let fused = read(r#"["qkv_proj", "gate_up_proj"]"#).unwrap();
        assert_eq!(fused, [QProj, KProj, VProj, GateProj, UpProj].into());
        let some = read(r#"["layers.1.mlp.down_proj", "q_proj"]"#).unwrap();
        assert!(some.contains(0, QProj) && some.contains(1, DownProj));
        assert!(!some.contains(0, DownProj) && !some.contains(11, DownProj));
        let some = read(r#""model\\.layers\\.[02]\\..*(q|v)_proj""#).unwrap();
        assert!(some.contains(0, QProj) && some.contains(2, VProj));
        assert!(!some.contains(1, QProj) && !some.contains(0, KProj));
        assert!(!read(r#"".*v_proj""#).unwrap().contains(0, QProj));
        // The whole name, and names of matrices that hold several.
        assert!(!read(r#""layers.*q_proj""#).unwrap().contains(0, QProj));
        assert!(read(r#"".*qkv_proj""#).unwrap().contains(3, KProj));
        // As in the language part of a model that also sees.
        let some = read(r#"".*language_model\\..*\\.q_proj""#).unwrap();
        assert!(some.contains(1, QProj) && !some.contains(1, KProj));
        // Python's lookarounds.
        let some = read(r#""(?!.*mlp).*_proj""#).unwrap();
        assert!(some.contains(0, KProj) && !some.contains(0, UpProj));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let error = read(r#"["q_prj"]"#).unwrap_err();
        assert!(error.contains("unknown variant `q_prj`"), "{error}");
        let error = read(r#"["layers.1.lm_head", "q_proj"]"#).unwrap_err();
        assert!(error.contains("`layers.1.lm_head`"), "{error}");
        let error = read(r#""q_proj""#).unwrap_err();
        assert!(error.contains(r#"["q_proj"]"#), "{error}");
        let error = read(r#"".*(q_proj""#).unwrap_err();
        assert!(error.contains("no regular expression"), "{error}");
        assert!(read(r#""a)(b""#).is_err());
    }

    #[test]
    fn values_by_name_fit_ends_and_are_told_when_they_clash() {
        let text = r#"{"q_proj": 4, "layers.1.mlp.*": 2, "layers\\.1\\.mlp\\.up_proj": 3}"#;
        let values: ByName<usize> = serde_json::from_str(text).unwrap();
        assert_eq!(values.get(7, QProj), Some(4));
        assert_eq!(values.get(1, GateProj), Some(2));
        assert_eq!(values.get(11, GateProj), None);
        assert_eq!(values.ambiguous(1, GateProj), None);
        assert!(values.ambiguous(1, UpProj).is_some());
        let again: ByName<usize> =
            serde_json::from_str(&serde_json::to_string(&values).unwrap()).unwrap();
        assert_eq!(again, values);
        assert!(serde_json::from_str::<ByName<usize>>(r#"{"(": 1}"#).is_err());
    }
}
