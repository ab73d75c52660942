from nsbench.cli import main

main()
