from .collect import How as How
from .scrape import Scraper as Scraper
from .scrape import scrape_tag as scrape_tag
from .selection import Selection as Selection
