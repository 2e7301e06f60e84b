"""Our converter against Ceilometer's, on mutations of the corpus: ``python -m tests.differential``."""
