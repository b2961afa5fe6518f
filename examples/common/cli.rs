//! What the examples share: options, the choice of a backend, progress, and how they end.
#![allow(dead_code, reason = "each of the programs that share this file uses a part of it")]

use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::str::FromStr;
use wgpu_norm::{Error, host::Backend};

/// What `--backend` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU, or the CPU when there is none.
    #[default]
    Best,
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Choice, String> {
        match name {
            "cpu" => Ok(Choice::Cpu),
            "gpu" => Ok(Choice::Gpu),
            _ => Err("it is cpu or gpu (WGPU_ADAPTER_NAME chooses among several GPUs)".into()),
        }
    }
}

impl Choice {
    /// Opens the backend, and says so when it is not what one would expect.
    pub fn open(self) -> Result<Backend, String> {
        if self == Choice::Cpu {
            return Ok(Backend::Cpu);
        }
        match pollster::block_on(Backend::gpu()) {
            Ok(backend) => Ok(backend),
            Err(Error::NoDevice(reason)) if self == Choice::Best => {
                println!("No GPU ({reason}): using the CPU.");
                Ok(Backend::Cpu)
            }
            Err(error) => Err(format!("{error}. Use --backend cpu, or scripts/test to install a software driver.")),
        }
    }
}

/// Reads the command line: `option` takes a long option by name and says whether it knows it.
///
/// `--help` prints the usage and ends the program; so does a mistake, with exit status 2.
pub fn parse(usage: &str, mut option: impl FnMut(&str, &mut lexopt::Parser) -> Result<bool, lexopt::Error>) {
    let mut parser = lexopt::Parser::from_env();
    let result: Result<(), lexopt::Error> = (|| {
        while let Some(argument) = parser.next()? {
            let name = match &argument {
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                    println!("{usage}");
                    std::process::exit(0);
                }
                lexopt::Arg::Long(name) => name.to_string(),
                _ => return Err(argument.unexpected()),
            };
            if !option(&name, &mut parser)? {
                return Err(format!("there is no option --{name}").into());
            }
        }
        Ok(())
    })();
    if let Err(error) = result {
        eprintln!("{error}\n\n{usage}");
        std::process::exit(2);
    }
}

/// A number of things to do, for [`lexopt::ValueExt::parse_with`].
pub fn positive(number: &str) -> Result<usize, &'static str> {
    number.parse().ok().filter(|&n| n > 0).ok_or("it is a number from 1 up")
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg} {bar:30} {pos}/{len} {eta:>4}");
    // The template is a constant: if it were wrong, the default look would do.
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Exit status of a program, and its last words if it failed.
pub fn end(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
