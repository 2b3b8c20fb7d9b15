//! Shows a pull while it runs, from its events only: a picture on a terminal, lines elsewhere, JSON.

mod frame;
mod plain;
mod record;
mod state;
mod totals;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use longshore::{Event, EventStream, Events};
use terminal_size::{Height, Width, terminal_size_of};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::frame::{Terminal, frame};
use self::plain::Lines;
use self::record::{ByteEventFilter, LastLine, Record, UnfinishedRecord};
use self::state::Progress;
pub(super) use self::state::Unwritten;
use self::totals::Totals;
use super::failure::Failure;
use super::format::json_line;
use super::say::{self, say};
use super::timeline::{Target, Timeline};

/// The time between two pictures, and between two checks for lines that are due.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown, as the command line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Style {
    /// A picture on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Lines, at most one a second.
    Plain,
    /// The events on stderr, one JSON object a line.
    Json,
    /// No progress is shown.
    None,
}

/// The form in which progress is shown, chosen from the style and the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DisplayMode {
    Picture,
    Lines,
    /// Only what went wrong and does not end the pull.
    Warnings,
    Json,
    Nothing,
}

impl DisplayMode {
    /// Chooses how progress is shown. A picture needs a terminal that moves its cursor. The logs of continuous integration
    /// often look like a terminal and are none; such systems set `CI`. The lines of skopeo's log would tear a picture.
    fn choose(
        style: Style,
        (is_terminal, has_log): (bool, bool),
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let is_log = variable("CI").is_some_and(|ci| !ci.is_empty() && ci != "false")
            || variable("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        match style {
            Style::None => Self::Nothing,
            Style::Json => Self::Json,
            Style::Auto if is_terminal && !is_log && !has_log => Self::Picture,
            Style::Auto | Style::Plain => Self::Lines,
        }
    }
}

/// Whether the locale has characters beyond ASCII (locale(7)).
fn is_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| {
        let value = variable(name)?;
        (!value.is_empty()).then_some(value)
    });
    locale.is_some_and(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The options of the progress: what is shown, and how.
#[derive(Debug)]
pub(super) struct ProgressOptions {
    pub(super) style: Style,
    /// Whether this is a dry run. Its events say of each layer that it is there, so only warnings are shown.
    pub(super) is_dry: bool,
    /// Whether each layer gets a line.
    pub(super) verbose: bool,
    /// Whether skopeo's log goes to stderr.
    pub(super) has_log: bool,
    /// The images that were asked for.
    pub(super) images: Vec<String>,
    /// How often a blob is retried.
    pub(super) retries: u32,
    /// Where to write the events; `-` is stdout.
    pub(super) events: Option<PathBuf>,
    /// Where to draw the pull, and the least length of the time axis.
    pub(super) timeline: Option<(Target, Duration)>,
}

impl ProgressOptions {
    /// Returns the sender for events, and a future that ends when all events have been shown.
    ///
    /// A thread of its own shows the events, and writes them and the timeline to their files. A stopped terminal or a
    /// hanging disk holds up this thread, but neither the pull nor a signal.
    pub(super) async fn start(
        self,
    ) -> Result<(Events, impl Future<Output = DisplayResult>), Failure> {
        let (path, images) = (self.events.clone(), self.images.clone());
        let timeline = self.timeline.clone();
        // The path of the timeline is checked first: if it is wrong, the file of the events must not be emptied.
        let open_files = move || -> Result<(Option<Timeline>, Option<Record>), Failure> {
            let timeline = timeline.map(|(target, axis)| Timeline::begin(target, axis));
            let timeline = timeline.transpose()?;
            let record = path.map(|path| Record::begin(&path, &images)).transpose()?;
            Ok((timeline, record))
        };
        let opened = spawn_blocking(open_files).await;
        let (timeline, record) = opened.map_err(anyhow::Error::from)??;
        let (events, stream) = Events::channel();
        let runtime = Handle::current();
        let (ended, end) = oneshot::channel();
        let guard = ENDED
            .get_or_init(CancellationToken::new)
            .clone()
            .drop_guard();
        let show = move || {
            let _guard = guard;
            let (mut result, record) = self.show_all(&runtime, stream, record, timeline);
            let (last, record) = record.map(LastLine::of).unzip();
            result.record = last;
            // The receiver is gone if a signal has ended the command. The last line says so then.
            let _ = ended.send(result);
            record.into_iter().for_each(UnfinishedRecord::write);
        };
        let thread = thread::Builder::new().name("longshore-progress".into());
        thread.spawn(show)?;
        // The sender is dropped without a message only if the thread panicked.
        let panicked = || anyhow::anyhow!("the thread that shows the progress has ended").into();
        let displaying = async move {
            end.await
                .unwrap_or_else(|_| DisplayResult::failed(panicked()))
        };
        Ok((events, displaying))
    }

    fn show_all(
        self,
        runtime: &Handle,
        mut stream: EventStream,
        mut record: Option<Record>,
        mut timeline: Option<Timeline>,
    ) -> (DisplayResult, Option<Record>) {
        let mut display = Display::new(&self);
        let mut result = DisplayResult::default();
        display.tick();
        loop {
            let next = runtime.block_on(async { timeout(TICK, stream.recv()).await });
            let written = match next {
                Ok(None) => break,
                Ok(Some(event)) => {
                    if let Some(timeline) = &mut timeline {
                        timeline.take(&event);
                    }
                    display.take(&event);
                    result.totals.take(&event.kind);
                    record.as_mut().map(|record| record.take(&event))
                }
                Err(_) => record.as_mut().map(Record::flush),
            };
            // After a write error, events are still shown.
            if let Some(Err(failure)) = written {
                result.failures.push(failure);
                record = None;
            }
            display.tick();
        }
        display.end();
        let drawn = timeline.map_or(Ok(()), Timeline::finish);
        result.failures.extend(drawn.err());
        result.unwritten = display.progress.unwritten();
        (result, record)
    }
}

/// The token that is cancelled when the thread that shows the progress has ended. `None` if no such thread was started.
static ENDED: OnceLock<CancellationToken> = OnceLock::new();

/// Waits until the thread that shows the progress has ended, and its files are complete.
pub(super) async fn ended() {
    if let Some(ended) = ENDED.get() {
        ended.cancelled().await;
    }
}

/// The result of showing a pull.
#[derive(Default)]
pub(super) struct DisplayResult {
    /// The last line of the events, which is still to be written.
    pub(super) record: Option<LastLine>,
    /// The errors of what could not be written.
    pub(super) failures: Vec<Failure>,
    /// What the pull has not written into its destination.
    pub(super) unwritten: Unwritten,
    /// The totals of what the pull has fetched.
    pub(super) totals: Totals,
}

impl DisplayResult {
    fn failed(failure: Failure) -> Self {
        Self {
            failures: vec![failure],
            ..Self::default()
        }
    }
}

struct Display {
    mode: DisplayMode,
    started: Instant,
    subject: String,
    is_unicode: bool,
    progress: Progress,
    lines: Lines,
    filter: ByteEventFilter,
    /// The time of the next picture, or of the next check for lines that are due.
    next_draw: Duration,
}

impl Display {
    fn new(options: &ProgressOptions) -> Self {
        let ProgressOptions {
            style,
            is_dry,
            verbose,
            has_log,
            images,
            retries,
            ..
        } = options;
        let stderr = (std::io::stderr().is_terminal(), *has_log);
        let mode = match DisplayMode::choose(*style, stderr, variable) {
            DisplayMode::Picture | DisplayMode::Lines if *is_dry => DisplayMode::Warnings,
            mode => mode,
        };
        let subject = match images.as_slice() {
            [image] => longshore::printable(image),
            images => format!("{} images", images.len()),
        };
        Self {
            mode,
            started: Instant::now(),
            subject,
            is_unicode: is_unicode(variable),
            progress: Progress::of(images.len()),
            lines: Lines::new(*verbose, *retries),
            filter: ByteEventFilter::default(),
            next_draw: Duration::ZERO,
        }
    }

    fn take(&mut self, event: &Event) {
        let now = self.started.elapsed();
        self.progress.take(now, &event.kind);
        let line = match self.mode {
            DisplayMode::Json if self.filter.passes(event) => json_line(event).ok(),
            DisplayMode::Nothing | DisplayMode::Json => None,
            DisplayMode::Warnings => self.lines.warning(&self.progress, &event.kind),
            DisplayMode::Picture if !self.lines.is_verbose => {
                self.lines.warning(&self.progress, &event.kind)
            }
            DisplayMode::Picture | DisplayMode::Lines => {
                self.lines.of_event(&self.progress, &event.kind)
            }
        };
        line.into_iter().for_each(say);
    }

    /// Shows what is due.
    fn tick(&mut self) {
        let now = self.started.elapsed();
        self.progress.sample(now);
        match self.mode {
            DisplayMode::Nothing | DisplayMode::Json | DisplayMode::Warnings => {}
            DisplayMode::Picture | DisplayMode::Lines if now < self.next_draw => {}
            DisplayMode::Lines => {
                self.next_draw = now + TICK;
                let due = self.lines.due(&self.progress, now);
                due.into_iter().for_each(say);
            }
            DisplayMode::Picture => {
                self.next_draw = now + TICK;
                let size = terminal_size_of(std::io::stderr());
                let (Width(columns), Height(rows)) = size.unwrap_or((Width(80), Height(24)));
                let terminal = Terminal {
                    columns: columns.into(),
                    rows: rows.into(),
                    is_unicode: self.is_unicode,
                };
                say::show(frame(&self.progress, &self.subject, now, terminal));
            }
        }
    }

    fn end(&self) {
        if self.mode == DisplayMode::Picture {
            say::show(Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_needs_a_terminal_that_moves_its_cursor() {
        let table = [
            (Style::Auto, true, "xterm", None, DisplayMode::Picture),
            (Style::Auto, false, "xterm", None, DisplayMode::Lines),
            (Style::Auto, true, "dumb", None, DisplayMode::Lines),
            (Style::Auto, true, "", None, DisplayMode::Lines),
            (Style::Auto, true, "xterm", Some("true"), DisplayMode::Lines),
            (
                Style::Auto,
                true,
                "xterm",
                Some("false"),
                DisplayMode::Picture,
            ),
            (Style::Plain, true, "xterm", None, DisplayMode::Lines),
            (Style::Json, true, "xterm", None, DisplayMode::Json),
            (Style::None, true, "xterm", None, DisplayMode::Nothing),
        ];
        for (style, is_terminal, term, ci, expected) in table {
            let variable = |name: &str| match name {
                "TERM" => Some(term.to_owned()),
                _ => ci.map(str::to_owned),
            };
            let mode = DisplayMode::choose(style, (is_terminal, false), variable);
            assert_eq!(mode, expected, "{style:?} {is_terminal} {term} {ci:?}");
        }
        let term = |name: &str| (name == "TERM").then(|| "xterm".to_owned());
        let mode = DisplayMode::choose(Style::Auto, (true, true), term);
        assert_eq!(mode, DisplayMode::Lines);
    }

    #[test]
    fn the_first_variable_that_is_set_names_the_locale() {
        let table = [
            ("", "", "C.UTF-8", true),
            ("", "de_DE.utf8", "C", true),
            ("C", "", "C.UTF-8", false),
            ("", "", "", false),
        ];
        for (all, ctype, lang, expected) in table {
            let variable = |name: &str| {
                let value = match name {
                    "LC_ALL" => all,
                    "LC_CTYPE" => ctype,
                    _ => lang,
                };
                Some(value.to_owned())
            };
            assert_eq!(is_unicode(variable), expected, "{all} {ctype} {lang}");
        }
    }
}
