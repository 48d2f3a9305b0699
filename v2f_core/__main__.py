"""python -m v2f_core"""

from v2f_core.cli import main

main()
