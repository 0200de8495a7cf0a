//! Operations on every device beside the processor's; and what `benches/gpu.sh` measures, so that
//! one program is all that is carried to a machine with a card.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::support::devices;

#[path = "../../benches/measure/nodes.rs"]
mod nodes;
#[path = "../../benches/measure/step.rs"]
mod step;

/// The flags of a measurement.
const FLAGS: &str = "UQ4CT_MEASURE";

fn asked() -> impl Iterator<Item = OsString> {
    let flags = std::env::var(FLAGS).expect("UQ4CT_MEASURE has the flags, as benches/gpu.sh sets");
    let words: Vec<OsString> = flags.split_whitespace().map(OsString::from).collect();
    std::iter::once("measure".into()).chain(words)
}

#[test]
fn values_and_gradients_of_every_operation_equal_the_processors() {
    for (name, _, _) in devices() {
        // Products may take TF32 on an NVIDIA card.
        let tolerance = if name.starts_with("cuda") {
            "5e-3"
        } else {
            "1e-5"
        };
        let flags = [
            "nodes",
            "--device",
            &name,
            "--rows",
            "1,37",
            "--tolerance",
            tolerance,
        ];
        let ended = nodes::run(flags.map(OsString::from).into_iter()).unwrap();
        assert_eq!(ended, ExitCode::SUCCESS, "{name}");
    }
}

#[test]
#[ignore = "benches/gpu.sh measures"]
fn nodes() {
    assert_eq!(nodes::run(asked()).unwrap(), ExitCode::SUCCESS);
}

#[test]
#[ignore = "benches/gpu.sh measures"]
fn step() {
    step::run(asked()).unwrap();
}
