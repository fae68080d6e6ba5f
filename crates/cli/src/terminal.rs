//! What standard output is: how many columns a text for people may take, and whether it has colour.
//!
//! Both are decided once, before anything is written: a text is laid out and coloured where it is
//! made, and written as it is. Rejected: colouring every text and removing the escape sequences at
//! the end, which would also take bytes out of files and names that pass through.

use std::fmt::Display;
use std::io::{self, IsTerminal};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// The narrowest terminal that texts are laid out for; a narrower one breaks lines itself.
const NARROWEST: usize = 40;

/// Columns where standard output is no terminal.
const STANDARD: usize = 100;

/// Standard output, as texts for people see it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Terminal {
    /// Of the terminal; none where standard output is none.
    columns: Option<usize>,
    /// The colours of standard output.
    pub(crate) palette: Palette,
}

impl Terminal {
    /// This program's standard output, with colour as `--color` says.
    pub(crate) fn of(choice: clap::ColorChoice) -> Self {
        let stdout = io::stdout();
        let columns = stdout.is_terminal().then(|| {
            let of_environment = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
            let of_kernel = || Some(usize::from(terminal_size::terminal_size_of(&stdout)?.0.0));
            of_environment.or_else(of_kernel).filter(|columns| *columns > 0)
        });
        let columns = columns.flatten().map(|columns| columns.max(NARROWEST));
        Self { columns, palette: Palette::of(choice, &stdout) }
    }

    /// A terminal of so many columns, without colour.
    #[cfg(test)]
    pub(crate) fn of_columns(columns: usize) -> Self {
        Self { columns: Some(columns), palette: Palette::default() }
    }

    /// The terminal's columns; none where standard output is no terminal, whose text must not
    /// depend on the machine.
    pub(crate) fn columns(self) -> Option<usize> {
        self.columns
    }

    /// The terminal's columns, or 100 where standard output is no terminal.
    pub(crate) fn columns_or_standard(self) -> usize {
        self.columns.unwrap_or(STANDARD)
    }

    /// `text` with its lines broken at words, so that they fit the terminal; `indent` begins each
    /// line that is added. Unchanged where standard output is no terminal.
    pub(crate) fn wrapped(self, text: &str, indent: &str) -> String {
        match self.columns {
            Some(columns) => wrapped(text, columns, indent),
            None => text.to_owned(),
        }
    }
}

/// `text` with its lines broken at words, so that no line has more than `columns`, unless it is one
/// word; `indent` begins each line that is added.
pub(crate) fn wrapped(text: &str, columns: usize, indent: &str) -> String {
    let options = Options::new(columns)
        .subsequent_indent(indent)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    // Line by line: in a text of several lines each one that follows would get the indent.
    let lines = text.split_inclusive('\n').map(|line| match line.strip_suffix('\n') {
        Some(line) => textwrap::fill(line, &options) + "\n",
        None => textwrap::fill(line, &options),
    });
    lines.collect()
}

/// The columns that `text` takes; escape sequences take none.
pub(crate) fn width(text: &str) -> usize {
    textwrap::core::display_width(text)
}

/// `text` with spaces behind it, up to so many columns.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// The end of `text`, of at most so many columns, behind a sign where something is left out. It is
/// foreign text: a replacement character stands for each control character, which a terminal would
/// obey.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let text: String = text.chars().map(printable).collect();
    if width(&text) <= columns {
        return text;
    }
    let fits = |at: &usize| width(&text[*at..]) < columns;
    let start = text.char_indices().map(|(at, _)| at).find(fits).unwrap_or(text.len());
    format!("…{}", &text[start..])
}

/// What a piece of text says, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The head of a table, a title.
    Heading,
    /// A group by its number: neighbours differ.
    Group(u32),
    /// Ready, passed, held.
    Good,
    /// Switched off, limited, a warning.
    Warning,
    /// Fails, a refusal, a claim that did not hold.
    Bad,
    /// Not known, or beside the point.
    Faint,
}

impl Role {
    fn style(self) -> Style {
        /// Of groups: none of the colours that judge.
        const GROUPS: [AnsiColor; 5] = [
            AnsiColor::Cyan,
            AnsiColor::Magenta,
            AnsiColor::Blue,
            AnsiColor::BrightCyan,
            AnsiColor::BrightMagenta,
        ];
        match self {
            Self::Heading => Style::new().bold(),
            Self::Group(number) => GROUPS[number as usize % GROUPS.len()].on_default(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Faint => Style::new().dimmed(),
        }
    }
}

/// Colours, or none of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Palette {
    has_colour: bool,
}

impl Palette {
    /// Of standard error.
    pub(crate) fn of_stderr(choice: clap::ColorChoice) -> Self {
        Self::of(choice, &io::stderr())
    }

    fn of<S: anstream::stream::RawStream>(choice: clap::ColorChoice, stream: &S) -> Self {
        let has_colour = match choice {
            clap::ColorChoice::Always => true,
            clap::ColorChoice::Never => false,
            // A terminal that shows colour, where the user has not switched it off (NO_COLOR,
            // CLICOLOR, TERM=dumb); CLICOLOR_FORCE switches it on for any stream.
            clap::ColorChoice::Auto => AutoStream::choice(stream) != anstream::ColorChoice::Never,
        };
        Self { has_colour }
    }

    /// What clap has rendered.
    pub(crate) fn styled(self, text: &clap::builder::StyledStr) -> String {
        if self.has_colour { text.ansi().to_string() } else { text.to_string() }
    }

    /// `text` in the colour of what it says.
    pub(crate) fn paint(self, role: Role, text: impl Display) -> String {
        if self.has_colour {
            let style = role.style();
            format!("{style}{text}{style:#}")
        } else {
            text.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURED: Palette = Palette { has_colour: true };

    #[test]
    fn lines_are_broken_at_words_and_only_there() {
        let text = "  one two three\nfour-five-six-seven\n";
        assert_eq!(wrapped(text, 9, "    "), "  one two\n    three\nfour-five-six-seven\n");
        assert_eq!(wrapped(text, 80, "    "), text);
        assert_eq!(Terminal::default().wrapped(text, ""), text, "no terminal, no width");
    }

    #[test]
    fn colour_takes_no_columns_and_is_there_only_where_it_is_wanted() {
        let painted = COLOURED.paint(Role::Bad, "no");
        assert_eq!((painted.as_str(), width(&painted)), ("\u{1b}[31mno\u{1b}[0m", 2));
        assert_eq!(padded(&painted, 4), format!("{painted}  "));
        assert_eq!(wrapped(&format!("{painted} {painted}"), 5, ""), format!("{painted} {painted}"));
        assert_eq!(Palette::default().paint(Role::Bad, "no"), "no");
        assert_ne!(
            COLOURED.paint(Role::Group(0), "group"),
            COLOURED.paint(Role::Group(1), "group"),
            "neighbours differ"
        );
    }

    #[test]
    fn a_name_keeps_its_end_and_loses_what_a_terminal_would_obey() {
        assert_eq!(shortened("0123456789", 10), "0123456789");
        assert_eq!(shortened("0123456789", 4), "…789");
        assert_eq!(shortened("漢字漢字", 5), "…漢字");
        assert_eq!(shortened("a\u{1b}[31mb", 20), "a\u{fffd}[31mb");
    }
}
