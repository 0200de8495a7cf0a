//! `uq4ct train` under the name of the design card:
//! `cargo run --release --bin train -- --dataset boolq`.
#![recursion_limit = "256"]

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

fn main() -> std::process::ExitCode {
    uq4ct::allocator::keep_pages();
    uq4ct::backend::set_default();
    uq4ct::cli::train_main()
}
