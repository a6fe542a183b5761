//! The chart's alerts and its dashboard ask for figures and labels that docs/metrics.md has, in PromQL
//! that parses. That the document says what is served is tests/watching.rs's.

use promql_parser::parser::{self, Expr, LabelModifier};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Labels that Prometheus itself gives to what it scrapes, or that only its functions use.
const OF_PROMETHEUS: [&str; 3] = ["instance", "job", "le"];

fn text(path: &str) -> String {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every series that docs/metrics.md promises, with its labels.
fn promised() -> BTreeMap<String, BTreeSet<String>> {
    let mut series = BTreeMap::new();
    for line in text("docs/metrics.md").lines().filter_map(|line| line.strip_prefix("| `")) {
        let cells: Vec<_> = line.split(" | ").collect();
        let [name, kind, labels, ..] = cells.as_slice() else { continue };
        let name = name.trim_end_matches('`');
        let labels: BTreeSet<_> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let ends: &[&str] = if *kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        series.extend(ends.iter().map(|end| (format!("{name}{end}"), labels.clone())));
    }
    assert!(series.len() > 50, "the document's tables are read: {series:?}");
    series
}

/// What a query asks for: series with the labels that it selects them by, and labels that it groups by.
#[derive(Default)]
struct Asked {
    series: BTreeMap<String, BTreeSet<String>>,
    groups: BTreeSet<String>,
}

impl Asked {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        // Grafana's variables, as it fills them in.
        let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
        asked.take(&parser::parse(&query).unwrap_or_else(|error| panic!("{query}: {error}")));
        asked
    }

    fn take(&mut self, expression: &Expr) {
        match expression {
            Expr::VectorSelector(selector) => {
                let name = selector.name.clone().expect("a series is asked for by its name");
                let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone());
                self.series.entry(name).or_default().extend(labels.filter(|label| label != "__name__"));
            }
            Expr::MatrixSelector(matrix) => self.take(&Expr::VectorSelector(matrix.vs.clone())),
            Expr::Aggregate(aggregate) => {
                if let Some(LabelModifier::Include(labels) | LabelModifier::Exclude(labels)) = &aggregate.modifier {
                    self.groups.extend(labels.labels.iter().cloned());
                }
                self.take(&aggregate.expr);
            }
            Expr::Call(call) => call.args.args.iter().for_each(|argument| self.take(argument)),
            Expr::Binary(both) => {
                self.take(&both.lhs);
                self.take(&both.rhs);
            }
            Expr::Paren(inner) => self.take(&inner.expr),
            Expr::Unary(inner) => self.take(&inner.expr),
            Expr::Subquery(inner) => self.take(&inner.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
            Expr::Extension(_) => panic!("an extension of PromQL"),
        }
    }
}

/// What is wrong with a query, or with a text that names labels.
fn complaints(query: &str, named: &BTreeSet<String>) -> Vec<String> {
    let promised = promised();
    let asked = Asked::of(query);
    let mut wrong = Vec::new();
    let mut there: BTreeSet<&str> = BTreeSet::from(OF_PROMETHEUS);
    for (name, labels) in &asked.series {
        let Some(has) = promised.get(name) else {
            wrong.push(format!("{name} is not in docs/metrics.md"));
            continue;
        };
        there.extend(has.iter().map(String::as_str));
        let foreign = labels.iter().filter(|label| !has.contains(*label) && !OF_PROMETHEUS.contains(&label.as_str()));
        wrong.extend(foreign.map(|label| format!("{name} has no label {label}")));
    }
    let foreign = asked.groups.union(named).filter(|label| !there.contains(label.as_str()));
    wrong.extend(foreign.map(|label| format!("no series of it has a label {label}")));
    wrong
}

#[test]
fn alerts_ask_for_figures_and_labels_that_there_are() {
    let rules: Value = serde_yaml::from_str(&text("charts/gardend/files/alerts.yaml")).expect("YAML");
    let rules: Vec<_> = rules["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules").clone())
        .collect();
    assert!(rules.len() > 5);
    for rule in rules {
        let (alert, query) = (&rule["alert"], rule["expr"].as_str().expect("an expression"));
        let words = format!("{} {}", rule["annotations"]["summary"], rule["annotations"]["description"]);
        let named = words
            .split("$labels.")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
        let wrong = complaints(query, &named.collect());
        assert!(wrong.is_empty(), "{alert}: {query}: {wrong:?}");
        assert!(rule["labels"]["severity"].is_string() && rule["annotations"]["description"].is_string(), "{alert}");
        // Other figures that the words send to are there too.
        let promised = promised();
        for word in words.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let there = promised.contains_key(word) || promised.contains_key(&format!("{word}_bucket"));
            assert!(!word.starts_with("gardend_") || there, "{alert} names {word}");
        }
    }
}

#[test]
fn the_dashboard_asks_for_figures_and_labels_that_there_are() {
    let dashboard: Value = serde_json::from_str(&text("charts/gardend/files/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries = 0;
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("an expression");
            let legend = target["legendFormat"].as_str().expect("a legend");
            let named =
                legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.to_owned());
            let wrong = complaints(query, &named.collect());
            assert!(wrong.is_empty(), "{}: {query}: {wrong:?}", panel["title"]);
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries} queries");
}

#[test]
fn a_figure_or_a_label_that_is_not_there_is_noticed() {
    let named = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    assert!(complaints("sum by (phase) (gardend_containers)", &named(&[])).is_empty());
    for (query, labels) in [
        ("gardend_pods", &[][..]),
        ("gardend_create_duration_seconds", &[]),
        ("gardend_containers{colour=\"red\"}", &[]),
        ("sum by (colour) (gardend_containers)", &[]),
        ("sum by (phase) (gardend_containers)", &["colour"]),
    ] {
        assert_eq!(complaints(query, &named(labels)).len(), 1, "{query}");
    }
}
