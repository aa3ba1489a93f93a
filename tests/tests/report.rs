//! The report as somebody sees it who opens it.

use std::path::Path;
use std::process::{Command, Stdio};

use tests::{Project, Shop};

const WIDTH: u32 = 1_200;
const HEIGHT: u32 = 2_400;

fn browser() -> Option<&'static str> {
    let works = |name: &&str| {
        let ran = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        ran.is_ok_and(|status| status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(works)
}

/// Opens `page` in the browser without a window and returns the picture: rows of RGB or RGBA bytes, and the bytes of a
/// pixel.
fn screenshot(browser: &str, page: &Path, folder: &Path) -> (Vec<u8>, usize) {
    let picture = folder.join("screenshot.png");
    let ran = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--timeout=30000"])
        .arg(format!("--window-size={WIDTH},{HEIGHT}"))
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("the browser starts");
    assert!(picture.exists(), "no screenshot: {}", String::from_utf8_lossy(&ran.stderr));
    let file = std::io::BufReader::new(std::fs::File::open(picture).expect("it is there"));
    let mut reader = png::Decoder::new(file).read_info().expect("the browser writes PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits into memory")];
    let info = reader.next_frame(&mut pixels).expect("the browser writes whole files");
    assert_eq!((info.width, info.height), (WIDTH, HEIGHT));
    let size = info.color_type.samples();
    (pixels, size)
}

#[test]
fn the_report_is_not_blank_in_a_real_browser() {
    let Some(browser) = browser() else {
        eprintln!("SKIPPED: there is no chromium, so nobody looked at the report");
        return;
    };
    let project = Project::trained(&Shop::default());
    project.run(["evaluate", "--report", "report"]).done();
    let page = project.path("report/report.html");
    let html = String::from_utf8(project.read("report/report.html")).expect("HTML is UTF-8");
    for elsewhere in ["<script src", "<link rel=\"stylesheet\" href", "src=\"http", "@import"] {
        assert!(!html.contains(elsewhere), "the report needs more than itself: {elsewhere}");
    }
    let (pixels, size) = screenshot(browser, &page, &project.path("."));
    let background = &pixels[..3];
    let drawn: Vec<&[u8]> =
        pixels.chunks_exact(size).map(|pixel| &pixel[..3]).filter(|it| *it != background).collect();
    let share = drawn.len() as f64 / f64::from(WIDTH * HEIGHT);
    assert!(share > 0.005, "only {share:.4} of the report is not background");
    let colours: std::collections::HashSet<_> = drawn.into_iter().collect();
    assert!(colours.len() > 16, "the report has {} colours: there are no plots", colours.len());
}
