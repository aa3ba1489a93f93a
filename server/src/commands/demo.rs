//! `cascade demo`: everything once, on a real data set.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use engine::config::Config;
use featurestore::infer::{Files, infer};
use featurestore::readers::{Content, Format, Input};

use super::evaluate::{evaluate, terminal_width};
use super::generate::generate;
use super::import::{import, report};
use super::init::write_config;
use super::precompute::Precompute;
use super::serve::{ClockKind, serve};
use super::train::train;
use super::{Global, Outcome};
use crate::workspace::Workspace;

mod probe;

/// Import a real data set, train, print the evaluation, precompute, serve, and print lines to try.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Folder with transactions, products and demographics as .parquet or .csv; left out: a data set is made up.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Where to work.
    #[arg(long, default_value = "cascade-demo")]
    dir: PathBuf,
    /// Address to serve at.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// Serve on a free port, send one request of each kind, stop, and fail unless all went well.
    #[arg(long)]
    check: bool,
}

/// Start of the last four weeks of the real data: what the release must not have seen when it is evaluated.
const SPLIT: &str = "2017-12-04T00:00:00Z";

impl Demo {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        std::fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make {}", self.dir.display()))?;
        let files = self.files()?;
        let config = self.dir.join("cascade.toml");
        let workspace = self.import(&files, &config)?;

        heading("train on everything before the last four weeks");
        let trained = train(&workspace, Some(SPLIT), global.n_threads())?;
        println!("{}", trained.verdict);
        if !trained.verdict.passed {
            eprintln!(
                "the gate refused release {}: it stays on the shelf, and there is nothing to serve",
                trained.id
            );
            return Ok(Outcome::Refused);
        }

        heading("evaluate on the last four weeks");
        let evaluated = evaluate(&workspace, None, &[], 1.0, global.n_threads())?;
        let folder = self.dir.join("report");
        evaluated.write(&folder)?;
        println!("{}", evaluated.text(terminal_width()));
        println!("the report with plots: {}", folder.join("report.html").display());

        heading("precompute the nightly lists");
        let global = Global { config, ..global.clone() };
        Precompute::new(self.dir.join("lists.parquet")).run(&global)?;
        self.serve(&workspace)
    }

    fn import(&self, files: &Files, config: &Path) -> anyhow::Result<Workspace> {
        heading("read the files and infer a configuration");
        let started = Instant::now();
        let inferred = infer(files)?;
        write_config(config, &inferred.to_toml())?;
        println!("wrote {} ({:.1} s)", config.display(), started.elapsed().as_secs_f64());
        let workspace = Workspace::new(Config::read(config)?);
        if workspace.log_dir().exists() {
            println!("{} holds an event log already: not imported again", self.dir.display());
            return Ok(workspace);
        }
        heading("import");
        let maps = &workspace.config.import;
        let input =
            |path: &PathBuf, content| Input { path: path.clone(), format: Format::Auto, content };
        let users = files
            .users
            .iter()
            .zip(maps.users.clone())
            .map(|(path, map)| input(path, Content::Users(map)));
        let items = files
            .items
            .iter()
            .zip(maps.items.clone())
            .map(|(path, map)| input(path, Content::Items(map)));
        let events = maps.events.clone().map(|map| input(&files.events, Content::Events(map)));
        let inputs: Vec<Input> = users.chain(items).chain(events).collect();
        let started = Instant::now();
        report(&import(&workspace, &inputs, 0.01)?, false);
        println!("({:.1} s)", started.elapsed().as_secs_f64());
        Ok(workspace)
    }

    fn files(&self) -> anyhow::Result<Files> {
        let folder = match &self.data {
            Some(folder) => folder.clone(),
            None => {
                eprintln!(
                    "\n*** NO --data: THE DATA SET IS MADE UP. Its figures say that everything runs, and nothing about \
                     quality. ***\n"
                );
                generate(&self.dir, 7)?;
                self.dir.clone()
            }
        };
        let find = |name: &str| {
            let named = ["parquet", "csv", "csv.gz"]
                .map(|extension| folder.join(format!("{name}.{extension}")));
            named.into_iter().find(|path| path.exists())
        };
        let Some(events) = find("transactions") else {
            bail!("{} has no transactions.parquet or transactions.csv", folder.display());
        };
        Ok(Files {
            events,
            items: find("products"),
            users: find("demographics"),
            format: Format::Auto,
        })
    }

    fn serve(&self, workspace: &Workspace) -> anyhow::Result<Outcome> {
        heading("serve");
        let users = probe::some_users(workspace)?;
        if self.check {
            let ok = probe::check(workspace, &users)?;
            return Ok(if ok { Outcome::Done } else { Outcome::Failed });
        }
        let config = self.dir.join("cascade.toml");
        let listening = |url: &str, _: Option<&str>| {
            println!("listening on {url}; the clock goes on from the last event of the data");
            let (lines, address) = (probe::lines(url, &users), url.replacen("http://", "", 1));
            std::thread::spawn(move || match probe::wait_until_ready(&address) {
                Ok(()) => {
                    println!("the release is loaded. Try:\n");
                    lines.iter().for_each(|line| println!("  {line}"));
                    println!(
                        "\nCtrl-C stops the server; `cascade serve --config {} --clock data` starts it again",
                        config.display()
                    );
                }
                Err(error) => eprintln!("{error}"),
            });
        };
        serve(workspace, Some(&self.listen), ClockKind::Data, listening)?;
        Ok(Outcome::Done)
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}
