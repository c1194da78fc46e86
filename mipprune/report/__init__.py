"""What people see: tables on the terminal, pictures, and the HTML page about runs."""
