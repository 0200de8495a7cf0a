//! Operations on a device beside the processor's: `cargo bench --profile dev --bench nodes`.

use std::error::Error;
use std::process::ExitCode;

#[path = "measure/nodes.rs"]
mod nodes;

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    nodes::run(std::env::args_os())
}
