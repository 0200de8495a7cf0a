//! The presets of methods, which the program carries with it.

macro_rules! preset {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../configs/method/", $name, ".toml")),
        )
    };
}

/// Name and text of the files under `configs/method/`.
pub(crate) const METHOD_PRESETS: &[(&str, &str)] = &[
    preset!("base"),
    preset!("lora"),
    preset!("lora-published"),
    preset!("mc_dropout"),
    preset!("deep_ensemble"),
    preset!("deep-ensemble-8"),
    preset!("laplace"),
    preset!("laplace-last"),
    preset!("laplace-centred"),
    preset!("laplace-published"),
    preset!("mixlora"),
    preset!("uq4ct"),
    preset!("calibrated"),
    preset!("uq4ct-incremental"),
    preset!("uq4ct-delta"),
    preset!("uq4ct-answer"),
    preset!("mixlora-repo"),
    preset!("spuq"),
    preset!("checkpoint_ensemble"),
    preset!("tfb"),
    preset!("tfb-public"),
    preset!("blob"),
    preset!("blob-cycles"),
];

/// The text of a preset.
pub(crate) fn method_preset(name: &str) -> Option<&'static str> {
    let found = METHOD_PRESETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}
