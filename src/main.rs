//! `uq4ct <verb>`
#![recursion_limit = "256"]

// glibc returns large tensors to the kernel at every drop: a row norm measured 7 times slower with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    uq4ct::allocator::keep_pages();
    uq4ct::cli::main()
}
