//! The bondgate binary.

fn main() -> std::process::ExitCode {
    bondgate::cli::main()
}
