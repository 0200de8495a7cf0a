//! `uq4ct <verb>`
#![recursion_limit = "256"]

#[global_allocator]
static ALLOCATOR: uq4ct::allocator::Allocator = uq4ct::allocator::Allocator;

fn main() -> std::process::ExitCode {
    uq4ct::allocator::keep_pages();
    uq4ct::backend::set_default();
    uq4ct::cli::main()
}
