//! Keys: what each changes in the model, and what it asks for beside.

use super::model::{Column, Mode, Model, Name};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What a key asks for that is not the model's to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// To leave.
    Quit,
    /// To ask the server now.
    Refresh,
    /// A shell in this container.
    Shell(String),
    /// The output of this process.
    Output(String, String),
}

/// What there is to press, for the line at the bottom and the help.
pub(super) const KEYS: [(&str, &str); 12] = [
    ("1-8", "sort by that column; once more: the other way round"),
    ("up, down, k, j", "select; PgUp, PgDn, Home, End: further"),
    ("Enter, right", "show the container's processes"),
    ("left", "hide them"),
    ("/", "filter; Enter keeps it, Esc ends it"),
    ("Esc", "show all again"),
    ("s", "open a shell in the container"),
    ("o", "follow the output of the process; Ctrl-C comes back"),
    ("space", "pause, and go on"),
    ("r", "look now"),
    ("?", "this help"),
    ("q, Ctrl-C", "leave"),
];

impl Model {
    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Option<Act> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Act::Quit);
        }
        self.notice = None;
        match self.mode {
            Mode::Help => {
                self.mode = Mode::List;
                None
            }
            Mode::Filter => {
                self.edit(key.code);
                None
            }
            Mode::List => self.command(key.code),
        }
    }

    fn edit(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) -> Option<Act> {
        let page = isize::try_from(self.page.max(1)).unwrap_or(1);
        match code {
            KeyCode::Char('q') => return Some(Act::Quit),
            KeyCode::Char('r') => return Some(Act::Refresh),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='8') => self.sort_by(digit),
            KeyCode::Char('s') => return self.shell(),
            KeyCode::Char('o' | 'l') => return self.output(),
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Up | KeyCode::Char('k') => self.move_by(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_by(1),
            KeyCode::PageUp => self.move_by(-page),
            KeyCode::PageDown => self.move_by(page),
            KeyCode::Home | KeyCode::Char('g') => self.move_by(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.move_by(isize::MAX),
            KeyCode::Enter => self.fold(None),
            KeyCode::Right => self.fold(Some(false)),
            KeyCode::Left => self.fold(Some(true)),
            _ => {}
        }
        None
    }

    fn sort_by(&mut self, digit: char) {
        let number = digit.to_digit(10).map_or(0, |number| number as usize);
        let Some(column) = number.checked_sub(1).and_then(|at| Column::ALL.get(at)) else { return };
        self.reversed = self.sort == *column && !self.reversed;
        self.sort = *column;
    }

    fn move_by(&mut self, by: isize) {
        let rows = self.rows();
        let Some(at) = self.position(&rows) else { return };
        let to = at.saturating_add_signed(by).min(rows.len() - 1);
        self.selected = Some(rows[to].name.clone());
    }

    /// Hides the processes of the selected container, or shows them; `None`: whichever it does not.
    fn fold(&mut self, fold: Option<bool>) {
        let Some(Name { handle, .. }) = self.selected_row().map(|row| row.name) else { return };
        if fold.unwrap_or(self.unfolded.contains(&handle)) {
            self.unfolded.remove(&handle);
        } else {
            self.unfolded.insert(handle.clone());
        }
        if fold == Some(true) || self.selected.is_none() {
            self.selected = Some(Name { handle, process: None });
        }
    }

    fn shell(&mut self) -> Option<Act> {
        let row = self.selected_row()?;
        self.selected = Some(row.name.clone());
        Some(Act::Shell(row.name.handle))
    }

    /// Of the selected process, or of the only one of the selected container.
    fn output(&mut self) -> Option<Act> {
        let row = self.selected_row()?;
        self.selected = Some(row.name.clone());
        if let Some(process) = row.name.process {
            return Some(Act::Output(row.name.handle, process));
        }
        match self.processes(&row.name.handle).as_slice() {
            [] => self.notice = Some(format!("no process runs in '{}'", row.name.handle)),
            [only] => return Some(Act::Output(row.name.handle, only.clone())),
            _ => {
                self.unfolded.insert(row.name.handle);
                self.notice = Some("select the process whose output you want, and press o again".to_owned());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{model, seen};
    use super::*;

    fn press(model: &mut Model, keys: &[KeyCode]) -> Option<Act> {
        keys.iter().map(|code| model.press(KeyEvent::new(*code, KeyModifiers::NONE))).last().flatten()
    }

    fn selected(model: &Model) -> Name {
        model.selected_row().unwrap().name
    }

    fn three() -> Model {
        model(&[("a", seen(9, 1, &["p", "q"])), ("b", seen(5, 1, &["r"])), ("c", seen(1, 1, &[]))])
    }

    #[test]
    fn a_number_sorts_and_once_more_reverses() {
        let mut model = three();
        press(&mut model, &[KeyCode::Char('1')]);
        assert_eq!((model.sort, model.reversed), (Column::Handle, false));
        press(&mut model, &[KeyCode::Char('1')]);
        assert_eq!((model.sort, model.reversed), (Column::Handle, true));
        press(&mut model, &[KeyCode::Char('4')]);
        assert_eq!((model.sort, model.reversed), (Column::Memory, false));
    }

    #[test]
    fn letters_are_text_in_a_filter_and_commands_elsewhere() {
        let mut model = three();
        let keys = ['/', 'q', 's', 'x'].map(KeyCode::Char);
        assert_eq!(press(&mut model, &keys), None);
        press(&mut model, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!((model.filter.as_str(), model.mode), ("qs", Mode::List));
        press(&mut model, &[KeyCode::Esc]);
        assert_eq!(model.filter, "");
        assert_eq!(press(&mut model, &[KeyCode::Char('q')]), Some(Act::Quit));
        press(&mut model, &[KeyCode::Char('/'), KeyCode::Char('a'), KeyCode::Esc]);
        assert_eq!((model.filter.as_str(), model.mode), ("", Mode::List));
    }

    #[test]
    fn the_selection_follows_its_container_and_never_leaves_the_list() {
        let mut model = three();
        press(&mut model, &[KeyCode::Down]);
        assert_eq!(selected(&model).handle, "b");
        press(&mut model, &[KeyCode::Char('1'), KeyCode::Char('1')]);
        assert_eq!(selected(&model).handle, "b");
        for (key, handle) in [(KeyCode::End, "a"), (KeyCode::Down, "a"), (KeyCode::Home, "c"), (KeyCode::Up, "c")] {
            press(&mut model, &[key]);
            assert_eq!(selected(&model).handle, handle, "{key:?}");
        }
        assert_eq!(press(&mut Model::new(Column::Cpu, String::new(), String::new()), &[KeyCode::Down]), None);
    }

    #[test]
    fn a_shell_is_the_containers_and_an_output_the_processs() {
        let mut model = three();
        assert_eq!(press(&mut model, &[KeyCode::Char('s')]), Some(Act::Shell("a".into())));
        // Of several processes one has to be chosen.
        assert_eq!(press(&mut model, &[KeyCode::Char('o')]), None);
        assert!(model.notice.as_deref().unwrap().contains("select the process"));
        let chosen = press(&mut model, &[KeyCode::Down, KeyCode::Down, KeyCode::Char('o')]);
        assert_eq!(chosen, Some(Act::Output("a".into(), "q".into())));
        assert_eq!(press(&mut model, &[KeyCode::Char('s')]), Some(Act::Shell("a".into())));
        let only = press(&mut model, &[KeyCode::Down, KeyCode::Char('o')]);
        assert_eq!(only, Some(Act::Output("b".into(), "r".into())));
        assert_eq!(press(&mut model, &[KeyCode::Down, KeyCode::Char('o')]), None);
        assert_eq!(model.notice.as_deref(), Some("no process runs in 'c'"));
    }

    #[test]
    fn folding_is_undone_by_the_same_key_and_selects_the_container() {
        let mut model = three();
        press(&mut model, &[KeyCode::Enter, KeyCode::Down]);
        assert_eq!(selected(&model).process.as_deref(), Some("p"));
        press(&mut model, &[KeyCode::Left]);
        assert_eq!((selected(&model).process, model.rows().len()), (None, 3));
        press(&mut model, &[KeyCode::Right, KeyCode::Right]);
        assert_eq!(model.rows().len(), 5);
    }

    #[test]
    fn any_key_ends_the_help_and_control_c_leaves_from_anywhere() {
        let mut model = three();
        press(&mut model, &[KeyCode::Char('?')]);
        assert_eq!(model.mode, Mode::Help);
        assert_eq!(press(&mut model, &[KeyCode::Char('q')]), None);
        assert_eq!(model.mode, Mode::List);
        press(&mut model, &[KeyCode::Char('/')]);
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(model.press(key), Some(Act::Quit));
    }
}
