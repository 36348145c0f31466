"""Our database: migrations, and the functions that read and write rows. The only room with SQL."""
