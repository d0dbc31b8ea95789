import sys

from emplifai.cli import main

sys.exit(main())
