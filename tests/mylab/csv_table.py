"""One CSV file with a row for each instance."""

import codecs
import csv
from typing import Literal

from pydantic import Field

from synthgen.backends import Config as BaseConfig
from synthgen.backends import Exporter

COLUMNS = ("image_id", "split", "class", "x", "y", "width", "height", "area", "ignore")


class Config(BaseConfig):
    """Options of the exporter."""

    delimiter: Literal[",", ";", "\t"] = Field(",", description="What separates the columns.")


class Backend(Exporter[Config]):
    """Writes `instances.csv`. Only one image's annotations are in memory at a time."""

    def export(self, info, records, folder):
        names = {category.id: category.name for category in info.categories}
        with folder.open("instances.csv") as file:
            table = csv.writer(codecs.getwriter("utf-8")(file), delimiter=self.config.delimiter, lineterminator="\n")
            table.writerow(COLUMNS)
            for record in records:
                for a in record.annotations:
                    box = (f"{value:g}" for value in a.bbox_xywh)
                    table.writerow([record.job.id, record.job.split, names[a.category_id], *box, a.area, int(a.ignore)])
