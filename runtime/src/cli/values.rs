//! Arguments become flags with their texts, and texts become values; every problem is reported.

use super::flags::{self, FLAGS, Flag};
use super::{Form, closest};
use crate::resources::Report;
use pillion_components::options::{parse_bytes, parse_duration};
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// What stands on the command line, after the subcommand.
#[derive(Default)]
pub(super) struct Arguments {
    given: Vec<(&'static Flag, String)>,
    /// What is no flag.
    pub(super) positional: Vec<String>,
    /// What comes after `--`; `None` without it.
    pub(super) command: Option<Vec<OsString>>,
}

/// Splits arguments.
pub(super) fn split(arguments: Vec<OsString>, report: &Report) -> Arguments {
    let mut split = Arguments::default();
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        let Some(argument) = argument.to_str().map(str::to_owned) else {
            report.problem(format!("{}: not UTF-8: write it in UTF-8", argument.display()));
            continue;
        };
        if argument == "--" {
            split.command = Some(rest.collect());
            break;
        }
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            split.positional.push(argument);
            continue;
        };
        let (name, attached) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = if name == "h" { "help" } else { name };
        let Some(flag) = flags::find(name) else {
            let near = closest(name, FLAGS.iter().map(|flag| flag.name));
            let hint = near.map_or_else(
                || String::from("`pillion help` lists all"),
                |near| format!("did you mean --{near}?"),
            );
            report.problem(format!("unknown flag --{name}: {hint}"));
            // Its value is no argument of its own.
            if attached.is_none() {
                rest.next_if(|next| !next.as_encoded_bytes().starts_with(b"-"));
            }
            continue;
        };
        let value = match attached {
            Some(value) => Some(value),
            // `--enable-metrics false` is met in the wild, though daprd wants an equals sign.
            None if flag.is_switch() => {
                let word = rest.next_if(|next| next == "true" || next == "false");
                Some(word.map_or("true".into(), |word| word.to_string_lossy().into_owned()))
            }
            None => rest.next().and_then(|value| value.into_string().ok()),
        };
        match value {
            Some(value) => split.given.push((flag, value)),
            None => report.problem(format!("--{name} has no value: write --{name} {}", flag.value)),
        }
    }
    split
}

impl Arguments {
    /// Whether a flag is there, with any value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(flag, _)| flag.name == name)
    }

    /// Reports flags that mean nothing in a form.
    pub(super) fn check_form(&self, form: Form, report: &Report) {
        for (flag, _) in self.given.iter().filter(|(flag, _)| !flag.is_for(form)) {
            let name = flag.name;
            report.problem(match flag.is_for_serving() {
                true => format!(
                    "--{name} means nothing to `pillion serve`: say it in a resource (App, Gateway)"
                ),
                false => format!("--{name} is for pillion {}", flag.forms_shown()),
            });
        }
    }

    /// Reports flags that are none of those a tool knows.
    pub(super) fn check_tool(&self, tool: &str, known: &[&str], report: &Report) {
        for (flag, _) in self.given.iter().filter(|(flag, _)| !known.contains(&flag.name)) {
            report.problem(format!("--{} means nothing to `pillion {tool}`", flag.name));
        }
        if self.command.is_some() {
            report.problem(format!("{tool} starts no command: leave out what comes after --"));
        }
    }

    /// The last text of a flag; an empty one counts as not given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(flags::find(name).is_some(), "{name} is in the table");
        let (_, text) = self.given.iter().rev().find(|(flag, _)| flag.name == name)?;
        // Launchers pass on what they were given, quotes and blanks included.
        Some(text.trim().trim_matches('"').trim()).filter(|text| !text.is_empty())
    }

    /// Every text of a repeatable flag.
    pub(super) fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = move |(flag, _): &&(&Flag, String)| flag.name == name;
        let texts = self.given.iter().filter(of_name).map(|(_, text)| text.as_str());
        texts.filter(|text| !text.is_empty())
    }

    /// The parts of a list with commas.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let parts = self.text(name).unwrap_or_default().split(',');
        parts.map(str::trim).filter(|part| !part.is_empty()).collect()
    }

    /// A value made from the text; `form` says how to write it.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        report: &Report,
        form: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let parsed = parse(text);
        if parsed.is_none() {
            report.problem(format!("--{name} is '{text}': write {form}"));
        }
        parsed
    }

    /// A whole number within a range.
    pub(super) fn number<T>(
        &self,
        name: &str,
        report: &Report,
        range: RangeInclusive<T>,
    ) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let form = format!("a whole number from {} to {}", range.start(), range.end());
        self.parsed(name, report, form, |text| {
            text.parse().ok().filter(|number| range.contains(number))
        })
    }

    /// A switch: as Go reads truth values.
    pub(super) fn switch(&self, name: &str, report: &Report) -> Option<bool> {
        self.parsed(name, report, "true or false", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    /// A size in bytes.
    pub(super) fn bytes(&self, name: &str, report: &Report) -> Option<usize> {
        self.parsed(name, report, "a size such as 65536, 64Ki or 4Mi", |text| {
            parse_bytes(text).and_then(|bytes| usize::try_from(bytes).ok())
        })
    }

    /// A duration in Go's form.
    pub(super) fn duration(&self, name: &str, report: &Report) -> Option<Duration> {
        self.parsed(name, report, "a duration such as 500ms, 10s or 1h30m", parse_duration)
    }
}
