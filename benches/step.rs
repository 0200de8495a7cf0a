//! Times steps on a device: `cargo bench --profile dev --bench step`.

use std::error::Error;

#[path = "measure/step.rs"]
mod step;

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

fn main() -> Result<(), Box<dyn Error>> {
    uq4ct::allocator::keep_pages();
    step::run(std::env::args_os())
}
