//! Man pages and completions are what the definitions of the flags say, byte for byte.
//!
//! Nobody edits `man/` and `completions/`: `UPDATE=1 cargo test generated` writes them, and
//! without it the same test compares, files that should no longer be there included.
//!
//! Flags are shown and completed with one dash, as they are documented and typed. The usual
//! generators know long flags with two dashes only, so the completions are written here, and
//! the dashes of the man page are put right.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command as Process,
};

use clap::{Arg, Command, ValueHint};

/// The programs whose pages and completions are kept, and other names they are installed under.
fn programs() -> Vec<(Command, &'static [&'static str])> {
    vec![(rqd::cli::command(), &["rqlited"])]
}

#[test]
fn man_pages_and_completions_are_what_the_definitions_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut expected = BTreeMap::new();
    for (command, aliases) in programs() {
        let name = command.get_name().to_owned();
        let names = [&[name.as_str()], aliases].concat();
        expected.insert(format!("man/{name}.1"), man_page(&command));
        expected.insert(format!("completions/{name}.bash"), bash(&command, &names));
        expected.insert(format!("completions/_{name}"), zsh(&command, &names));
        expected.insert(format!("completions/{name}.fish"), fish(&command, &names));
    }
    if env::var_os("UPDATE").is_some() {
        for folder in ["man", "completions"] {
            for path in files(root, folder) {
                fs::remove_file(root.join(path)).unwrap();
            }
        }
        for (path, content) in &expected {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), content).unwrap();
        }
    }
    let found: Vec<_> = ["man", "completions"].map(|folder| files(root, folder)).concat();
    let missing: Vec<_> = expected.keys().filter(|path| !found.contains(path)).collect();
    let stale: Vec<_> = found.iter().filter(|path| !expected.contains_key(*path)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}; UPDATE=1 writes them");
    assert!(stale.is_empty(), "no longer generated: {stale:?}; UPDATE=1 removes them");
    for (path, content) in &expected {
        // Bytes are compared and not shown: a page is long, and `git diff` shows it better.
        let same = fs::read(root.join(path)).unwrap() == content.as_bytes();
        assert!(same, "{path} is not what the definition says; UPDATE=1 writes it");
    }
}

/// The table of limits in `README.md` stands between these lines.
const LIMITS: (&str, &str) = (
    "<!-- limits: written by UPDATE=1 cargo test -p rq-tests generated -->\n",
    "<!-- end of limits -->\n",
);

#[test]
fn the_table_of_limits_is_what_the_definitions_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(LIMITS.0).unwrap();
    let (table, after) = rest.split_once(LIMITS.1).unwrap();
    let expected = limits(&rqd::cli::command());
    if env::var_os("UPDATE").is_some() {
        let (begin, end) = LIMITS;
        fs::write(&path, [before, begin, &expected, end, after].concat()).unwrap();
        return;
    }
    assert_eq!(table, expected, "UPDATE=1 cargo test -p rq-tests generated writes it");
}

/// A row for each flag of a limit: name, default, what it limits and what happens beyond it.
fn limits(command: &Command) -> String {
    let mut table = "| flag | default | limit |\n|---|---|---|\n".to_owned();
    for flag in command.get_arguments() {
        let Some(name) = flag.get_long().filter(|name| name.starts_with("limit-")) else {
            continue;
        };
        let default = flag.get_default_values()[0].to_string_lossy();
        let help = flag.get_help().unwrap().to_string();
        writeln!(table, "| `-{name}` | {default} | {help} |").unwrap();
    }
    table
}

#[test]
fn definitions_are_sound_and_every_argument_has_help() {
    for (command, _) in programs() {
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.is_empty(), "{} has no help", argument.get_id());
        }
    }
}

#[test]
fn bash_completes_flags_values_and_the_directory() {
    // What is typed (the last word being completed), and words that must and must not be offered.
    let rows: [(&[&str], &[&str], &[&str]); 7] = [
        (&["rqd", "-http-a"], &["-http-addr", "-http-adv-addr", "-http-allow-origin"], &["-fk"]),
        (&["rqd", "--raft-snap"], &["--raft-snap", "--raft-snap-int"], &["-raft-snap"]),
        (&["rqd", "-log-format", ""], &["text", "json"], &["-fk"]),
        (&["rqd", "-log-format", "=", "j"], &["json"], &["text"]),
        (&["rqd", "-fk", "=", ""], &["true", "false"], &["sub"]),
        (&["rqd", "-auth", ""], &["file", "sub"], &["-fk"]),
        (&["rqd", "-fk", ""], &["sub"], &["file", "true"]),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    for (words, offered, not_offered) in rows {
        let script = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                      _rqd; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Process::new("bash")
            .args(["-c", script, "bash"])
            .arg(root.join("completions/rqd.bash"))
            .args(words)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let found: Vec<_> = text.lines().collect();
        for word in offered {
            assert!(found.contains(word), "{words:?} offers {found:?} without {word}");
        }
        for word in not_offered {
            assert!(!found.contains(word), "{words:?} offers {found:?} with {word}");
        }
    }
}

/// Lists the files of a folder, relative to the root.
fn files(root: &Path, folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| PathBuf::from(folder).join(entry.unwrap().file_name()))
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    files.sort();
    files
}

fn man_page(command: &Command) -> String {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).unwrap();
    // Two dashes stand nowhere in the page but before long flags.
    String::from_utf8(page).unwrap().replace(r"\-\-", r"\-")
}

/// What may stand behind a flag.
enum Completion {
    /// One of these, behind `=` alone, and nothing at all is as good.
    Optional(Vec<String>),
    /// One of these.
    Choice(Vec<String>),
    /// A path.
    Path,
    /// Something only the operator knows.
    Free,
}

impl Completion {
    fn of(flag: &Arg) -> Self {
        let choices: Vec<_> =
            flag.get_possible_values().iter().map(|choice| choice.get_name().to_owned()).collect();
        let takes_no_word = flag.get_num_args().is_some_and(|number| number.min_values() == 0);
        match flag.get_value_hint() {
            _ if takes_no_word => Self::Optional(vec!["true".to_owned(), "false".to_owned()]),
            _ if !choices.is_empty() => Self::Choice(choices),
            ValueHint::FilePath | ValueHint::AnyPath | ValueHint::DirPath => Self::Path,
            _ => Self::Free,
        }
    }
}

/// Gives name, help and completion of every flag.
fn flags(command: &Command) -> Vec<(String, String, Completion)> {
    command
        .get_arguments()
        .filter_map(|flag| {
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            Some((flag.get_long()?.to_owned(), help, Completion::of(flag)))
        })
        .collect()
}

fn bash(command: &Command, names: &[&str]) -> String {
    let name = command.get_name();
    let (mut words, mut cases, mut switches, mut paths) =
        (Vec::new(), String::new(), Vec::new(), Vec::new());
    let mut free = Vec::new();
    for (flag, _, completion) in flags(command) {
        let flag = format!("-{flag}");
        match completion {
            Completion::Optional(_) => switches.push(flag.clone()),
            Completion::Path => paths.push(flag.clone()),
            Completion::Free => free.push(flag.clone()),
            Completion::Choice(choices) => writeln!(
                cases,
                "        {flag})\n            COMPREPLY=($(compgen -W '{}' -- \"$current\"))\n\
                 \x20           return ;;",
                choices.join(" ")
            )
            .unwrap(),
        }
        words.push(flag);
    }
    format!(
        r#"# Completion of {name} for bash. Generated from the definition of its flags.

_{name}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD-1]}} attached=
    # Bash makes a word of its own of the equals sign.
    if [[ $current == = ]]; then
        current= attached=1
    elif [[ $flag == = ]]; then
        flag=${{COMP_WORDS[COMP_CWORD-2]}} attached=1
    fi
    COMPREPLY=()
    case ${{flag/#--/-}} in
{cases}        {paths})
            COMPREPLY=($(compgen -f -- "$current"))
            return ;;
        {free})
            return ;;
        {switches})
            if [[ $attached ]]; then
                COMPREPLY=($(compgen -W 'true false' -- "$current"))
                return
            fi ;;
    esac
    local flags='{words}'
    case $current in
        --*) COMPREPLY=($(compgen -W "$flags" -P - -- "${{current#-}}")) ;;
        -*) COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
        *) COMPREPLY=($(compgen -d -- "$current")) ;;
    esac
}}

complete -o filenames -F _{name} {names}
"#,
        paths = paths.join("|"),
        free = free.join("|"),
        switches = switches.join("|"),
        words = words.join(" "),
        names = names.join(" "),
    )
}

fn zsh(command: &Command, names: &[&str]) -> String {
    let mut text = format!(
        "#compdef {}\n# Completion of {} for zsh. Generated from the definition of its flags.\n\n\
         _arguments -S \\\n",
        names.join(" "),
        command.get_name()
    );
    for (flag, help, completion) in flags(command) {
        let help = help.replace('\'', r"'\''").replace('[', r"\[").replace(']', r"\]");
        let (equals, action) = match completion {
            Completion::Optional(words) => ("=-", format!("::value:({})", words.join(" "))),
            Completion::Choice(words) => ("=", format!(":value:({})", words.join(" "))),
            Completion::Path => ("=", ":path:_files".to_owned()),
            Completion::Free => ("=", ":value: ".to_owned()),
        };
        writeln!(text, "  '*-{flag}{equals}[{help}]{action}' \\").unwrap();
    }
    text.push_str("  ':data directory:_files -/'\n");
    text
}

fn fish(command: &Command, names: &[&str]) -> String {
    let mut text = format!(
        "# Completion of {} for fish. Generated from the definition of its flags.\n",
        command.get_name()
    );
    for name in names {
        writeln!(text, "\ncomplete -c {name} -f -a '(__fish_complete_directories)'").unwrap();
        for (flag, help, completion) in flags(command) {
            let help = help.replace('\\', r"\\").replace('\'', r"\'");
            let value = match completion {
                Completion::Optional(_) => String::new(),
                Completion::Choice(words) => format!(" -x -a '{}'", words.join(" ")),
                Completion::Path => " -r -F".to_owned(),
                Completion::Free => " -x".to_owned(),
            };
            writeln!(text, "complete -c {name} -o {flag}{value} -d '{help}'").unwrap();
        }
    }
    text
}
