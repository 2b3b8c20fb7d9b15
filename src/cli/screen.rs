//! The part of a terminal that shows how far a pull is: below all lines that were written, and drawn anew when it changes.
//! Pure.

use unicode_width::UnicodeWidthStr;

/// The picture that is drawn below the lines that stay. Between two pictures, the cursor is in its first row: a
/// terminal that loses rows then cuts the picture at its end, and moves nothing of it into its history, from where it
/// would come back.
#[derive(Debug, Default)]
pub(super) struct Screen {
    lines: Vec<String>,
    is_drawn: bool,
}

impl Screen {
    /// Returns the control characters that erase the picture on a terminal of this size. The cursor is then where the
    /// picture began.
    ///
    /// A terminal that has become narrower has broken its long lines, so that they take more rows than before.
    pub(super) fn erase(&mut self, columns: usize, rows: usize) -> String {
        if !self.is_drawn {
            return String::new();
        }
        self.is_drawn = false;
        let taken = self
            .lines
            .iter()
            .map(|line| line.width().div_ceil(columns.max(1)).max(1));
        // There are no rows below the last one of the terminal.
        let down = taken.sum::<usize>().min(rows).saturating_sub(1);
        // The rows are erased one by one, because some terminals move a screen that is erased as a whole into their history.
        format!("\r\x1b7\x1b[2K{}\x1b8", "\x1b[B\x1b[2K".repeat(down))
    }

    /// Returns the text that draws these lines. The picture that was there must have been erased.
    pub(super) fn draw(&mut self, lines: Vec<String>) -> String {
        self.set(lines);
        self.redraw()
    }

    /// Sets what [`redraw`](Self::redraw) draws. The picture that was there must have been erased.
    pub(super) fn set(&mut self, lines: Vec<String>) {
        self.lines = lines;
    }

    /// Returns the text that draws the last picture. The cursor is then in its first row.
    pub(super) fn redraw(&mut self) -> String {
        self.is_drawn = !self.lines.is_empty();
        let up = self.lines.len().saturating_sub(1);
        let back = if self.is_drawn { "\r" } else { "" };
        self.lines.join("\n") + back + &"\x1b[A".repeat(up)
    }

    /// Forgets the picture, so that it is not drawn any more.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<String> {
        ["12345678", "1234", ""].map(str::to_owned).to_vec()
    }

    const DRAWN: &str = "12345678\n1234\n\r\x1b[A\x1b[A";

    /// The text that erases this many rows below the first one, too.
    fn erased(rows: usize) -> String {
        format!("\r\x1b7\x1b[2K{}\x1b8", "\x1b[B\x1b[2K".repeat(rows))
    }

    #[test]
    fn what_was_drawn_is_erased() {
        let mut screen = Screen::default();
        assert_eq!(screen.erase(80, 24), "");
        assert_eq!(screen.draw(lines()), DRAWN);
        assert_eq!(screen.erase(80, 24), erased(2));
        assert_eq!(screen.erase(80, 24), "", "it is erased once");
        assert_eq!(screen.redraw(), DRAWN);
        screen.clear();
        assert_eq!(screen.redraw(), "");
        assert_eq!(screen.draw(vec!["one".into()]), "one\r");
    }

    #[test]
    fn what_is_set_is_not_drawn_yet() {
        let mut screen = Screen::default();
        let _ = screen.draw(lines());
        let _ = screen.erase(80, 24);
        screen.set(lines());
        assert_eq!(screen.erase(80, 24), "", "nothing is there");
        assert_eq!(screen.redraw(), DRAWN);
    }

    #[test]
    fn a_terminal_that_has_become_narrower_has_broken_the_lines() {
        let mut screen = Screen::default();
        let _ = screen.draw(lines());
        assert_eq!(screen.erase(4, 24), erased(3));
        let _ = screen.redraw();
        assert_eq!(screen.erase(4, 3), erased(2));
        let _ = screen.redraw();
        assert_eq!(screen.erase(0, 0), erased(0));
    }
}
