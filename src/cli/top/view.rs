//! What is drawn of the model.

use super::super::output::{harmless, size};
use super::model::{Column, Figures, Mode, Model, Row};
use super::update::KEYS;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, TableState};
use std::time::Duration;

/// How names and figures share a line.
const WIDTHS: [Constraint; 8] = [
    Constraint::Min(16),
    Constraint::Length(9),
    Constraint::Length(8),
    Constraint::Length(19),
    Constraint::Length(10),
    Constraint::Length(11),
    Constraint::Length(6),
    Constraint::Length(6),
];

/// Whether there are colours. What they say is said by words, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colours,
    Plain,
}

impl Palette {
    fn toned(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, palette: Palette) {
    let areas = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
    let [head, list, foot] = areas.areas(frame.area());
    let rows = model.rows();
    frame.render_widget(heading(model, rows.iter().filter(|row| row.name.process.is_none()).count(), palette), head);
    draw_list(frame, list, model, &rows, palette);
    frame.render_widget(footer(model, palette), foot);
    if model.mode == Mode::Help {
        draw_help(frame);
    }
}

fn heading(model: &Model, shown: usize, palette: Palette) -> Line<'static> {
    let mut words =
        vec![Span::styled("gardend top", Modifier::BOLD), Span::raw(format!("  {}  ", safe(&model.target)))];
    words.push(Span::raw(match (model.is_empty(), model.containers()) {
        (true, _) => "asking...".to_owned(),
        (false, all) if all == shown => format!("{all} containers"),
        (false, all) => format!("{shown} of {all} containers"),
    }));
    if model.paused {
        words.push(Span::styled("  PAUSED", palette.toned(Color::Yellow).add_modifier(Modifier::BOLD)));
    }
    if !model.filter.is_empty() && model.mode != Mode::Filter {
        words.push(Span::raw(format!("  filter: {}", safe(&model.filter))));
    }
    Line::from(words)
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, model: &mut Model, rows: &[Row], palette: Palette) {
    let titles = Column::ALL.into_iter().enumerate().map(|(at, column)| {
        let mark = match (model.sort == column, model.reversed) {
            (false, _) => "",
            (true, false) => "*",
            (true, true) => "^",
        };
        Cell::from(format!("{}:{}{mark}", at + 1, column.title()))
    });
    let lines = rows.iter().map(|row| TableRow::new(cells(row, model).map(Cell::from)));
    let table = Table::new(lines, WIDTHS)
        .header(TableRow::new(titles).style(palette.toned(Color::Cyan).add_modifier(Modifier::BOLD)))
        .row_highlight_style(Modifier::REVERSED);
    let mut state = TableState::default().with_selected(model.position(rows));
    frame.render_stateful_widget(table, area, &mut state);
    // But for the titles.
    model.page = usize::from(area.height.saturating_sub(1));
}

/// A line's words, in the order of [`Column::ALL`].
pub(super) fn cells(row: &Row, model: &Model) -> [String; 8] {
    let Figures { cpu_percent, memory, memory_limit, rx_rate, tx_rate, pids, age } = &row.figures;
    let rate = |rate: Option<f64>| or_none(rate.map(|rate| size(rate.round() as u64)));
    let name = match &row.name.process {
        Some(process) => format!("    {}", safe(process)),
        None => {
            let mark = match (row.processes, model.unfolded.contains(&row.name.handle)) {
                (0, _) => " ",
                (_, true) => "-",
                (_, false) => "+",
            };
            format!("{mark} {}", safe(&row.name.handle))
        }
    };
    [
        name,
        safe(&row.state),
        or_none(cpu_percent.map(|percent| format!("{percent:.1}"))),
        or_none(memory.map(|memory| format!("{} / {}", size(memory), or_none(memory_limit.map(size))))),
        rate(*rx_rate),
        rate(*tx_rate),
        or_none(pids.map(|pids| pids.to_string())),
        or_none(age.map(since)),
    ]
}

fn footer(model: &Model, palette: Palette) -> Line<'static> {
    if model.mode == Mode::Filter {
        return Line::from(format!("/{}_", safe(&model.filter)));
    }
    if let Some(fault) = &model.fault {
        let words = format!("trying again: {}", safe(fault));
        return Line::styled(words, palette.toned(Color::Red).add_modifier(Modifier::BOLD));
    }
    if let Some(notice) = &model.notice {
        return Line::styled(safe(notice), palette.toned(Color::Yellow));
    }
    Line::from("1-8 sort  Enter processes  / filter  s shell  o output  space pause  ? help  q leave")
}

fn draw_help(frame: &mut Frame<'_>) {
    let width = KEYS.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let lines: Vec<Line<'_>> = KEYS.iter().map(|(key, what)| Line::from(format!(" {key:width$}  {what}"))).collect();
    let area = frame.area();
    let wanted = (72.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let area = Rect::new((area.width - wanted.0) / 2, (area.height - wanted.1) / 2, wanted.0, wanted.1);
    let block = Block::bordered().title(" keys: any of them ends this ").title_alignment(Alignment::Center);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn safe(text: &str) -> String {
    harmless(text).into_owned()
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// As kubectl has ages: the largest unit that says enough.
fn since(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{model, seen};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// The lines of a screen of this size.
    fn shown(model: &mut Model, columns: u16, lines: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, model, Palette::Plain)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..lines).map(line).collect()
    }

    #[test]
    fn a_screen_says_which_server_what_is_used_and_what_to_press() {
        let mut model = model(&[("web", seen(500, 12, &["p1"])), ("db", seen(20, 200, &[]))]);
        let lines = shown(&mut model, 100, 6);
        assert_eq!(lines[0], "gardend top  127.0.0.1:7777  2 containers");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&lines[1]), "1:HANDLE 2:STATE 3:CPU %* 4:MEMORY / LIMIT 5:NET IN/s 6:NET OUT/s 7:PIDS 8:AGE");
        assert_eq!(words(&lines[2]), "+ web active 50.0 12.0MiB / - 488KiB 0B 1 12m");
        assert_eq!(words(&lines[3]), "db active 2.0 200MiB / - 19.5KiB 0B 0 3h");
        assert!(lines[5].starts_with("1-8 sort  Enter processes  / filter"), "{lines:?}");
        assert_eq!(model.page, 3);
    }

    #[test]
    fn processes_stand_below_their_container_and_what_is_not_known_is_a_dash() {
        let mut model = model(&[("web", seen(500, 12, &["p1"]))]);
        model.unfolded.insert("web".into());
        let lines = shown(&mut model, 100, 6);
        assert!(lines[2].starts_with("- web") && lines[3].starts_with("    p1"), "{lines:?}");
        let words: Vec<_> = lines[3].split_whitespace().collect();
        assert_eq!(words, ["p1", "running", "-", "-", "-", "-", "-", "-"]);
    }

    #[test]
    fn a_server_that_is_away_a_pause_and_a_filter_are_told() {
        let mut model = model(&[("web", seen(1, 1, &[])), ("db", seen(1, 1, &[]))]);
        model.heard(Err("cannot reach 127.0.0.1:7777".into()));
        (model.paused, model.filter) = (true, "we".into());
        let lines = shown(&mut model, 100, 6);
        assert_eq!(lines[0], "gardend top  127.0.0.1:7777  1 of 2 containers  PAUSED  filter: we");
        assert_eq!(lines[5], "trying again: cannot reach 127.0.0.1:7777");
        model.mode = Mode::Filter;
        assert_eq!(shown(&mut model, 100, 6)[5], "/we_");
    }

    #[test]
    fn the_help_lists_every_key_and_fits_a_small_terminal() {
        let mut model = model(&[("web", seen(1, 1, &[]))]);
        model.mode = Mode::Help;
        let page = shown(&mut model, 100, 30).join("\n");
        for (key, what) in KEYS {
            assert!(page.contains(key) && page.contains(what), "{key} in {page}");
        }
        for (columns, lines) in [(100, 30), (20, 5), (1, 1), (3, 2)] {
            shown(&mut model, columns, lines);
        }
    }

    #[test]
    fn what_a_server_tells_cannot_disturb_the_terminal() {
        let mut model = model(&[("a\x1b[2Jb", seen(1, 1, &[]))]);
        let lines = shown(&mut model, 100, 5);
        assert!(lines[2].contains("a\\u{1b}[2Jb"), "{lines:?}");
    }

    #[test]
    fn a_list_that_does_not_fit_shows_the_selected_line() {
        let many: Vec<_> = (0..50).map(|number| (format!("c{number:02}"), seen(1, 1, &[]))).collect();
        let many: Vec<_> = many.iter().map(|(handle, seen)| (handle.as_str(), seen.clone())).collect();
        let mut model = model(&many);
        model.selected = Some(super::super::model::Name { handle: "c49".into(), process: None });
        assert!(shown(&mut model, 100, 10).iter().any(|line| line.contains("c49")));
    }

    #[test]
    fn ages_are_as_short_as_they_can_be() {
        let text = |seconds| since(Duration::from_secs(seconds));
        assert_eq!([text(119), text(120), text(7_200), text(172_800)], ["119s", "2m", "2h", "2d"]);
    }
}
